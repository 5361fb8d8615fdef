"""`midge machine update`."""

from __future__ import annotations

import sys

import click

from midge.cli import diff
from midge.cli.ask import confirm
from midge.cli.commands.machine.config_options import (
    ConfigOptions,
    Json,
    apply,
    config_options,
    read_config,
    split,
)
from midge.cli.commands.machine.failed import not_done
from midge.cli.failure import doing
from midge.cli.options import (
    app_option,
    command,
    detach_option,
    machine_argument,
    wait_timeout_option,
    yes_option,
)
from midge.cli.session import Session
from midge.cli.targets import Target, find
from midge.cli.waiting import wait_for
from midge.client.failures import StateUnreachable
from midge.errors import NotFound


@command("update")
@machine_argument
@app_option
@click.option("--image", default="", metavar="IMAGE", help="Another image.")
@click.option(
    "-C", "--command", "cmd", default=None, metavar="COMMAND", help="Another command, split as a shell would."
)
@config_options
@click.option("--skip-start", "--skip-launch", "skip_launch", is_flag=True, help="Leave it stopped.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@yes_option
@detach_option
@wait_timeout_option
def update(
    session: Session,
    machine: str,
    app: str,
    image: str,
    cmd: str | None,
    options: ConfigOptions,
    skip_launch: bool,
    dry_run: bool,
    yes: bool,
    detach: bool,
    wait_timeout: float,
) -> None:
    """Change a machine's configuration: shows what changes, asks, makes a new version.

    With --config the configuration is replaced; the other options are changes on top of it.
    """
    target = find(session, machine, app)
    with doing(f"update machine {target.typed}"):
        found = session.client.machines.get(target.app, target.id)
        before: Json = found["config"]
        base = read_config(options.config, sys.stdin.read) or before
        after = apply(base, options, session.env.get)
        if image:
            after["image"] = image
        if cmd is not None:
            after.setdefault("init", {})["cmd"] = split(cmd, "--command")
        changes = diff.lines(before, after)
        if not changes:
            session.out.note(f"{target.typed} is as wanted: nothing to do")
            _report(session, found, changes)
            return
        if not session.out.json:
            for line in changes:
                (session.out.line if dry_run else session.out.note)(line)
        if dry_run:
            if session.out.json:
                session.out.document({"id": target.id, "changes": changes})
            return
        if not yes:
            confirm(session, f"Change machine {target.typed}?")
        found = session.client.machines.update(
            target.app, target.id, after, current_version=found["version"], skip_launch=skip_launch
        )
        if not detach:
            found = _wait_updated(session, target, found["version"], wait_timeout)
    _report(session, found, changes)


def _wait_updated(session: Session, target: Target, version: str, timeout_s: float) -> Json:
    """The machine as it is then. Raises MachineFailed if it went back to the version before."""
    try:
        wait_for(session, target, ("settled",), timeout_s, version=version)
    except (NotFound, StateUnreachable):
        machine = session.client.machines.get(target.app, target.id)
        if machine["version"] < version:
            raise not_done(target, machine, "was not updated") from None
        raise
    return session.client.machines.get(target.app, target.id)


def _report(session: Session, machine: Json, changes: list[str]) -> None:
    if session.out.json:
        session.out.document({**machine, "changes": changes})
    elif session.out.quiet:
        session.out.line(machine["id"])
    elif changes:
        session.out.line(f"{machine['name']} {machine['state']}, version {machine['version']}")
