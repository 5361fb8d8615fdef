"""`midge machine wait`."""

from __future__ import annotations

import click

from midge.cli.failure import doing
from midge.cli.options import app_option, command, machine_argument, wait_timeout_option
from midge.cli.session import Session
from midge.cli.targets import find
from midge.cli.waiting import wait_for

STATES = ("started", "stopped", "suspended", "destroyed", "failed", "settled")


@command("wait")
@machine_argument
@app_option
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    default=("settled",),
    show_default=True,
    help="Any of these; `settled` is every state that lasts.",
)
@click.option(
    "--version", "--instance-id", "version", default="", metavar="VERSION", help="Of this version only."
)
@wait_timeout_option
def wait(
    session: Session, machine: str, app: str, states: tuple[str, ...], version: str, wait_timeout: float
) -> None:
    """Wait until a machine is in a state. Exit code 124 when the time runs out."""
    target = find(session, machine, app)
    with doing(f"see machine {target.typed} {' or '.join(states)}"):
        state = wait_for(session, target, states, wait_timeout, version=version)
    if session.out.json:
        session.out.document({"id": target.id, "app": target.app, "state": state})
    else:
        session.out.line(target.id if session.out.quiet else f"{target.typed} {state}")
