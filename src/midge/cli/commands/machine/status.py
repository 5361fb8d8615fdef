"""`midge machine status`."""

from __future__ import annotations

from typing import Any

import click

from midge.cli import text
from midge.cli.commands.machine.events import describe
from midge.cli.failure import doing
from midge.cli.options import app_option, command, machine_argument, watch_option
from midge.cli.session import Session
from midge.cli.targets import Target, find
from midge.cli.watch import repeat

# Events shown below the facts; all of them with `midge machine events`.
EVENTS_SHOWN = 8


@command("status")
@machine_argument
@app_option
@click.option(
    "--display-config", "config", is_flag=True, help="Print the configuration as JSON and nothing else."
)
@watch_option
def status(session: Session, machine: str, app: str, config: bool, watch: bool) -> None:
    """Show one machine."""
    target = find(session, machine, app)

    def show() -> None:
        with doing(f"show machine {target.typed}"):
            found = session.client.machines.get(target.app, target.id)
        if config:
            session.out.document(found.get("config"))
        elif session.out.json:
            (session.out.record if watch else session.out.document)(found)
        elif session.out.quiet:
            session.out.line(found["id"])
        else:
            _show(session, target, found)

    repeat(session, show, watch=watch)


def _show(session: Session, target: Target, machine: dict[str, Any]) -> None:
    config = machine.get("config") or {}
    session.out.pairs(
        {
            "Name": machine["name"],
            "Id": machine["id"],
            "App": target.app,
            "State": machine["state"],
            "Host": machine.get("host_status", ""),
            "Region": machine["region"],
            "Image": text.image(config),
            "Digest": (machine.get("image_ref") or {}).get("digest", ""),
            "Size": text.shape(config),
            "Address": machine.get("private_ip", ""),
            "Version": machine.get("version", ""),
            "Created": machine["created_at"],
            "Updated": machine["updated_at"],
        }
    )
    checks = machine.get("checks") or []
    if checks:
        session.out.line()
        session.out.table(
            ["CHECK", "STATUS", "OUTPUT"], [[c["name"], c["status"], c.get("output", "")] for c in checks]
        )
    events = machine.get("events") or []
    if events:
        session.out.line()
        session.out.table(
            ["EVENT", "STATUS", "SOURCE", "TIME", "DETAIL"], [_row(e) for e in events[:EVENTS_SHOWN]]
        )


def _row(event: dict[str, Any]) -> list[str]:
    return [event["type"], event["status"], event["source"], text.moment(event["timestamp"]), describe(event)]
