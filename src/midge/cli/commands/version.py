"""`midge version`."""

from __future__ import annotations

import click

from midge import __version__
from midge.cli.options import command
from midge.cli.session import Session


@command("version")
@click.option("--client", "client_only", is_flag=True, help="Do not ask the server.")
def version(session: Session, client_only: bool) -> None:
    """Show the versions of client and server.

    A server that does not answer is no error here.
    """
    found: dict[str, str | None] = {"client": __version__}
    if not client_only:
        found |= {"server": None, "api": None, "driver": None, "region": None} | _server(session)
    if session.out.json:
        session.out.document(found)
    elif session.out.quiet:
        session.out.line(__version__)
    else:
        session.out.pairs({name.capitalize(): value or "" for name, value in found.items()})


def _server(session: Session) -> dict[str, str | None]:
    from midge.errors import MidgeError, chain

    try:
        told = session.client.server.version()
    except MidgeError as error:
        session.out.note(f"server: {chain(error)}")
        return {}
    return {
        "server": told.get("version"),
        "api": told.get("api"),
        "driver": told.get("driver"),
        "region": told.get("region"),
    }
