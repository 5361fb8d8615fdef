"""`midge machine events`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from midge.cli import text
from midge.cli.failure import doing
from midge.cli.options import app_option, command, machine_argument
from midge.cli.session import Session
from midge.cli.targets import Target, find

Json = dict[str, Any]

# Seconds between two looks with --follow.
FOLLOW_INTERVAL_S = 1.0

# States after which nothing more happens to a machine.
FINAL = frozenset({"destroyed"})


@command("events")
@machine_argument
@app_option
@click.option(
    "-n", "--limit", type=click.IntRange(1, 50), default=20, show_default=True, help="The latest so many."
)
@click.option("-f", "--follow", is_flag=True, help="Go on as events come, until the machine is destroyed.")
@click.option("--phases", is_flag=True, help="Show where the time of the latest starts went instead.")
def events(session: Session, machine: str, app: str, limit: int, follow: bool, phases: bool) -> None:
    """Show what happened to a machine, oldest first."""
    if follow and phases:
        raise click.UsageError("--follow and --phases exclude each other")
    target = find(session, machine, app)
    if phases:
        _show_phases(session, target, limit)
        return
    with doing(f"show the events of machine {target.typed}"):
        found = session.client.machines.events(target.app, target.id, limit=limit)[::-1]
        if follow:
            try:
                for event in _follow(session, target, found):
                    _show_one(session, event)
            except KeyboardInterrupt:
                return
        elif session.out.json:
            session.out.document(found)
        elif session.out.quiet:
            for event in found:
                session.out.line(event["id"])
        else:
            session.out.table(
                ["TIME", "EVENT", "STATUS", "SOURCE", "DETAIL"], [_row(event) for event in found]
            )


def describe(event: Json) -> str:
    """What an event says beyond its type and status, on one line."""
    request = event.get("request") or {}
    exited = (request.get("MonitorEvent") or request).get("exit_event")
    if not exited:
        return failure(event)
    parts = [f"exit_code={exited.get('exit_code', '')}"]
    for name in ("oom_killed", "requested_stop", "restarting"):
        if exited.get(name):
            parts.append(name)
    if request.get("restart_count"):
        parts.append(f"restart_count={request['restart_count']}")
    reason = exited.get("error") or exited.get("guest_error")
    return " ".join(parts) + (f": {reason}" if reason else "")


def failure(event: Json) -> str:
    """The reason of a failure that an event gives, else an empty text."""
    request = event.get("request") or {}
    error = request.get("error") or request.get("reason") or ""
    return str(error.get("message", "")) if isinstance(error, dict) else str(error)


def failure_hint(event: Json) -> str:
    """What to do about it, as far as the event says so."""
    error = (event.get("request") or {}).get("error")
    return str(error.get("hint", "")) if isinstance(error, dict) else ""


def _row(event: Json) -> list[str]:
    return [text.moment(event["timestamp"]), event["type"], event["status"], event["source"], describe(event)]


def _show_one(session: Session, event: Json) -> None:
    if session.out.json:
        session.out.record(event)
    elif session.out.quiet:
        session.out.line(event["id"])
    else:
        session.out.line("  ".join(cell for cell in _row(event) if cell))


def _follow(session: Session, target: Target, first: list[Json]) -> Iterator[Json]:
    """Event ids are ULIDs: what sorts behind the last one is new."""
    last = ""
    found = first
    while True:
        for event in found:
            if event["id"] > last:
                last = event["id"]
                yield event
                if event["status"] in FINAL:
                    return
        time.sleep(FOLLOW_INTERVAL_S)
        found = session.client.machines.events(target.app, target.id)[::-1]


def _show_phases(session: Session, target: Target, limit: int) -> None:
    with doing(f"show the starts of machine {target.typed}"):
        starts = session.client.machines.phases(target.app, target.id, limit=limit)
    if session.out.json:
        session.out.document(starts)
        return
    for number, start in enumerate(starts):
        if number:
            session.out.line()
        session.out.line(f"{start['kind']} {start['start_id']}")
        rows = []
        before = 0.0
        for name, at in start["phases"]:
            rows.append([name, f"{at - before:.1f}", f"{at:.1f}"])
            before = at
        session.out.table(["PHASE", "MS", "AT_MS"], rows)
