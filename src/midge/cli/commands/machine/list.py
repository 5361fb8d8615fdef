"""`midge machine list`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from midge.cli import settings, text
from midge.cli.failure import doing
from midge.cli.options import app_option, command, org_option, watch_option
from midge.cli.session import Session
from midge.cli.watch import repeat

Json = dict[str, Any]


@command("list")
@app_option
@org_option
@click.option("--all", "everything", is_flag=True, help="All apps of the organization, whatever --app says.")
@click.option(
    "--state", "states", multiple=True, metavar="STATE", help="Only machines in this state; may be repeated."
)
@click.option(
    "--metadata", "metadata", multiple=True, metavar="KEY=VALUE", help="Only machines with this metadata."
)
@click.option("--include-destroyed", is_flag=True, help="Also machines that were destroyed lately.")
@watch_option
def list_machines(
    session: Session,
    app: str,
    org: str,
    everything: bool,
    states: tuple[str, ...],
    metadata: tuple[str, ...],
    include_destroyed: bool,
    watch: bool,
) -> None:
    """List machines.

    Without an app named by --app, the environment or fly.toml these are the machines of the whole organization.
    """
    chosen = None if everything else settings.app(session, app)
    wanted = _pairs(metadata)

    def show() -> None:
        with doing("list machines"):
            if chosen is not None:
                found = list(
                    session.client.machines.list(
                        chosen.value, states=states, metadata=wanted, include_deleted=include_destroyed
                    )
                )
            else:
                found = list(
                    _of_org(session, settings.org(session, org).value, states, wanted, include_destroyed)
                )
        _show(session, found, with_app=chosen is None, watch=watch)

    repeat(session, show, watch=watch)


def _of_org(
    session: Session, org: str, states: tuple[str, ...], metadata: dict[str, str], include_destroyed: bool
) -> Iterator[Json]:
    for machine in session.client.server.machines(org, states=states, include_deleted=include_destroyed):
        own = (machine.get("config") or {}).get("metadata") or {}
        if metadata.items() <= own.items():
            yield machine


def _show(session: Session, machines: list[Json], *, with_app: bool, watch: bool) -> None:
    out = session.out
    if out.json:
        (out.record if watch else out.document)(machines)
        return
    if out.quiet:
        for machine in machines:
            out.line(machine["id"])
        return
    if not machines:
        out.note("no machines; run one with `midge machine run debian echo hi`")
        return
    headers = ["NAME", "ID", "STATE", "REGION", "IMAGE", "SIZE", "AGE"]
    rows = [_row(machine) for machine in machines]
    if with_app:
        headers.insert(1, "APP")
        for row, machine in zip(rows, machines, strict=True):
            row.insert(1, machine.get("app_name", ""))
    out.table(headers, rows)


def _row(machine: Json) -> list[str]:
    config = machine.get("config") or {}
    return [
        machine["name"],
        machine["id"],
        machine["state"],
        machine["region"],
        text.image(config),
        text.shape(config),
        text.age(machine["created_at"], text.now()),
    ]


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{item!r} is not KEY=VALUE", param_hint="--metadata")
        pairs[key] = value
    return pairs
