"""`midge config`: the settings in force and where they come from."""

from __future__ import annotations

import click

from midge.cli import settings
from midge.cli.options import command
from midge.cli.session import Session
from midge.client.endpoint import Sourced

# Shown in place of a token.
REDACTED = "(set)"


@command("show")
@click.option("--origin", is_flag=True, help="Also where each value comes from.")
def show(session: Session, origin: bool) -> None:
    """Show the settings in force; tokens are not shown."""
    values = _settings(session)
    if session.out.json:
        session.out.document({name: {"value": v.value, "origin": v.origin} for name, v in values.items()})
    elif origin:
        session.out.table(
            ["NAME", "VALUE", "ORIGIN"], [[name, v.value, v.origin] for name, v in values.items()]
        )
    else:
        session.out.pairs({name: v.value for name, v in values.items()})


def _settings(session: Session) -> dict[str, Sourced]:
    endpoint = session.endpoint_or_none()
    nowhere = Sourced("", "nowhere")
    found = {
        "url": endpoint.url if endpoint else nowhere,
        "token": Sourced(REDACTED, endpoint.token.origin) if endpoint and endpoint.token.value else nowhere,
        "context": Sourced(endpoint.context, str(session.context_file().path))
        if endpoint and endpoint.context
        else nowhere,
        "org": settings.org(session),
        "app": settings.app(session, "")
        or Sourced("", f"nowhere; new machines go to `{settings.DEFAULT_APP}`"),
        "region": settings.region(session),
    }
    file = session.context_file().path
    return {**found, "config_file": Sourced(str(file), "present" if file.exists() else "absent")}
