"""`midge machine create`, and what `run` and `clone` share with it."""

from __future__ import annotations

import sys

import click

from midge.cli import settings
from midge.cli.commands.machine.config_options import (
    ConfigOptions,
    Json,
    apply,
    config_options,
    read_config,
)
from midge.cli.commands.machine.failed import not_done
from midge.cli.exits import UsageFailure
from midge.cli.failure import doing
from midge.cli.options import (
    app_option,
    detach_option,
    org_option,
    pass_through,
    region_option,
    wait_timeout_option,
)
from midge.cli.session import Session
from midge.cli.targets import Target
from midge.cli.waiting import wait_for
from midge.errors import NameTaken, NotFound

# What a machine settles as whose creation failed.
_NOT_CREATED = ("failed", "destroyed")


@pass_through("create")
@click.argument("image", required=False, default="", help="May be left out when --config names it.")
@click.argument(
    "cmd", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED, help="In place of the image's."
)
@app_option
@org_option
@region_option
@click.option("-n", "--name", default="", metavar="NAME", help="Made up by the server when left out.")
@config_options
@detach_option
@wait_timeout_option
def create(
    session: Session,
    image: str,
    cmd: tuple[str, ...],
    app: str,
    org: str,
    region: str,
    name: str,
    options: ConfigOptions,
    detach: bool,
    wait_timeout: float,
) -> None:
    """Create a machine without starting it. Fails if its image cannot be had."""
    config = configuration(session, image, cmd, options)
    owner = app_for_new(session, app, org)
    with doing("create a machine"):
        machine = session.client.machines.create(
            owner, config, name=name, region=settings.region(session, region).value, skip_launch=True
        )
    if not detach:
        target = Target(owner, machine["id"], machine["name"], machine["state"])
        machine = wait_created(session, target, wait_timeout)
    show_new(session, machine, owner, "created")


def wait_created(session: Session, target: Target, timeout_s: float) -> Json:
    """The machine, once it is made. Raises MachineFailed with the reason when it cannot be."""
    with doing(f"create machine {target.typed}"):
        reached = wait_for(session, target, ("settled",), timeout_s)
        machine = session.client.machines.get(target.app, target.id)
    if reached in _NOT_CREATED:
        raise not_done(target, machine, "was not created")
    return machine


def configuration(session: Session, image: str, cmd: tuple[str, ...], options: ConfigOptions) -> Json:
    """The configuration of a new machine. Raises UsageFailure."""
    config = apply(read_config(options.config, sys.stdin.read), options, session.env.get)
    if image:
        config["image"] = image
    if not config.get("image"):
        raise UsageFailure("no image is named", hint="`midge machine run debian echo hi`")
    if cmd:
        config["init"]["cmd"] = list(cmd)
    return config


def app_for_new(session: Session, flag: str, org_flag: str) -> str:
    """The app a new machine goes into.

    One that is named somewhere must exist. Otherwise it is `default`, which is made when the first machine comes.
    """
    named = settings.app(session, flag)
    if named is not None:
        return named.value
    name, org = settings.DEFAULT_APP, settings.org(session, org_flag).value
    with doing(f"create app {name}"):
        try:
            session.client.apps.get(name)
        except NotFound:
            try:
                session.client.apps.create(name, org)
                session.out.note(f"created app {name} in organization {org}; another one with --app")
            except NameTaken:
                # Somebody was quicker.
                return name
    return name


def show_new(session: Session, machine: Json, app: str, what: str) -> None:
    if session.out.json:
        session.out.document({**machine, "app": app})
    elif session.out.quiet:
        session.out.line(machine["id"])
    else:
        session.out.line(f"{machine['name']} {what}")
        session.out.pairs(
            {"Id": machine["id"], "App": app, "Region": machine["region"], "State": machine["state"]}
        )
        session.out.note(f"next: midge machine status {machine['name']} -a {app}")
