"""`midge machine clone`."""

from __future__ import annotations

import click

from midge.cli import settings
from midge.cli.commands.machine.config_options import ConfigOptions, apply, config_options
from midge.cli.commands.machine.create import show_new, wait_created
from midge.cli.commands.machine.failed import not_done
from midge.cli.failure import doing
from midge.cli.options import (
    app_option,
    command,
    detach_option,
    machine_argument,
    region_option,
    wait_timeout_option,
)
from midge.cli.session import Session
from midge.cli.targets import Target, find
from midge.cli.waiting import wait_for


@command("clone")
@machine_argument
@app_option
@region_option
@click.option("--to-app", default="", metavar="APP", help="Into another app.")
@click.option("-n", "--name", default="", metavar="NAME", help="Made up by the server when left out.")
@config_options
@click.option("--skip-launch", is_flag=True, help="Do not start it.")
@detach_option
@wait_timeout_option
def clone(
    session: Session,
    machine: str,
    app: str,
    region: str,
    to_app: str,
    name: str,
    options: ConfigOptions,
    skip_launch: bool,
    detach: bool,
    wait_timeout: float,
) -> None:
    """Create a machine with another one's configuration, changed by the options."""
    source = find(session, machine, app)
    with doing(f"clone machine {source.typed}"):
        config = apply(session.client.machines.get(source.app, source.id)["config"], options, session.env.get)
        owner = to_app or source.app
        made = session.client.machines.create(
            owner, config, name=name, region=settings.region(session, region).value, skip_launch=skip_launch
        )
        target = Target(owner, made["id"], made["name"], made["state"])
        if skip_launch and not detach:
            made = wait_created(session, target, wait_timeout)
        elif not detach:
            made["state"] = wait_for(
                session, target, ("started", "stopped", "failed", "destroyed"), wait_timeout
            )
    if made["state"] in ("failed", "destroyed"):
        raise not_done(target, session.client.machines.get(owner, made["id"]), "did not start")
    show_new(session, made, owner, "created")
