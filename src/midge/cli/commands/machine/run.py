"""`midge machine run`: create, start, and stay with it until it ends."""

from __future__ import annotations

import time
from typing import Any

import click

from midge.cli import exits, settings
from midge.cli.commands.machine.config_options import ConfigOptions, Json, config_options
from midge.cli.commands.machine.create import app_for_new, configuration, show_new, wait_created
from midge.cli.commands.machine.failed import MachineFailed, not_done, reason_of
from midge.cli.exits import UsageFailure
from midge.cli.failure import doing
from midge.cli.options import app_option, org_option, pass_through, region_option, wait_timeout_option
from midge.cli.progress import step
from midge.cli.session import Session
from midge.cli.targets import Target
from midge.cli.waiting import wait_for

# How long one foreground run may take, in seconds: Ctrl-C ends it earlier.
FOREGROUND_MAX_S = 30 * 24 * 3600.0

# States in which a machine has ended for good.
ENDED = ("stopped", "failed", "destroyed")


@pass_through("run", remote=True)
@click.argument(
    "image", required=False, default="", help="Such as debian or ghcr.io/me/app:1. May be in --config."
)
@click.argument(
    "cmd", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED, help="In place of the image's."
)
@app_option
@org_option
@region_option
@click.option("-n", "--name", default="", metavar="NAME", help="Made up by the server when left out.")
@config_options
@click.option(
    "-d", "--detach", "--no-wait", "detach", is_flag=True, help="Return when it has started; print its id."
)
@click.option("--rm", is_flag=True, help="Destroy it when its process ends.")
@click.option("--shell", is_flag=True, help="Open a shell in it; destroy it when you leave. Image: debian.")
@click.option("--skip-launch", is_flag=True, help="Only create it.")
@wait_timeout_option
def run(
    session: Session,
    image: str,
    cmd: tuple[str, ...],
    app: str,
    org: str,
    region: str,
    name: str,
    options: ConfigOptions,
    detach: bool,
    rm: bool,
    shell: bool,
    skip_launch: bool,
    wait_timeout: float,
) -> int:
    """Run a command in a new machine.

    Follows its output and returns the command's exit code; Ctrl-C stops following and leaves the machine alone.
    Without an app named by --app, the environment or fly.toml the machine goes into the app `default`.
    """
    place = {"name": name, "region": settings.region(session, region).value}
    if shell:
        from midge.cli.commands.machine.shell import run_shell

        if detach or skip_launch:
            raise UsageFailure("--shell cannot be combined with --detach or --skip-launch")
        return run_shell(session, image, cmd, app, org, place, options, wait_timeout)
    config = configuration(session, image, cmd, options)
    _restart(config, options, foreground=not (detach or skip_launch), rm=rm)
    owner = app_for_new(session, app, org)
    with doing(f"run {config['image']}"):
        machine = session.client.machines.create(owner, config, **place, skip_launch=skip_launch)
    target = Target(owner, machine["id"], machine["name"], machine["state"])
    if skip_launch:
        if not detach:
            machine = wait_created(session, target, wait_timeout)
        show_new(session, machine, owner, "created")
        return exits.OK
    if detach:
        with doing(f"see machine {machine['name']} started"):
            machine["state"] = wait_for(session, target, ("started", *ENDED), wait_timeout)
        _check_started(session, target, machine["state"])
        show_new(session, machine, owner, "started")
        return exits.OK
    return _foreground(session, target)


def _restart(config: Json, options: ConfigOptions, *, foreground: bool, rm: bool) -> None:
    """What somebody watches is not started again behind their back, unless they say so."""
    if rm:
        config["auto_destroy"] = True
    if (rm or foreground) and not options.restart:
        config.setdefault("restart", {"policy": "no"})


def _foreground(session: Session, target: Target) -> int:
    from midge.client.logs import Follower, Record

    def deliver(record: Record) -> None:
        if session.out.json:
            session.out.record(
                {
                    "type": "log",
                    "timestamp": record.timestamp,
                    "stream": record.stream,
                    "message": record.message,
                }
            )
        else:
            session.out.raw(record.data, to_stderr=record.stream == "stderr")

    session.out.detail(f"machine {target.typed} {target.id} in app {target.app}")
    try:
        with (
            doing(f"follow machine {target.typed}"),
            Follower(session.client.transport, target.app, target.id, deliver) as follower,
        ):
            session.client.machines.wait(target.app, target.id, ENDED, timeout_s=FOREGROUND_MAX_S)
            follower.finish()
    except KeyboardInterrupt:
        session.out.note(
            f"\nno longer following; machine {target.typed} goes on. Follow it again with:\n"
            f"  {target.command('logs', '-f')}\nor end it with:\n  {target.command('stop')}"
        )
        raise
    return _result(session, target)


def _result(session: Session, target: Target) -> int:
    with doing(f"read how machine {target.typed} ended"):
        machine = session.client.machines.get(target.app, target.id)
    exited = last_exit(machine)
    if exited is None:
        raise not_done(target, machine, "did not start")
    code = exits.remote(int(exited.get("guest_exit_code") or exited["exit_code"]))
    if exited.get("oom_killed"):
        session.out.warn(f"machine {target.typed} ran out of memory; give it more with --memory")
    reason = exited.get("error") or exited.get("guest_error")
    if reason:
        session.out.warn(f"machine {target.typed}: {reason}")
    if session.out.json:
        session.out.record(
            {"type": "exit", "id": target.id, "app": target.app, "exit_code": code, "event": exited}
        )
    return code


def last_exit(machine: Json) -> dict[str, Any] | None:
    """How the latest start ended, or None when no process of it has."""
    for event in machine.get("events") or []:
        request = event.get("request") or {}
        if event["type"] == "exit":
            found = (request.get("MonitorEvent") or request).get("exit_event")
            return dict(found) if found else None
        if event["type"] == "start":
            return None
    return None


def _check_started(session: Session, target: Target, state: str) -> None:
    """A process that ended well within moments has run all the same."""
    if state == "failed":
        raise not_done(target, session.client.machines.get(target.app, target.id), "did not start")


def wait_started(session: Session, target: Target, timeout_s: float) -> None:
    """For a machine that is to be used: ended is as bad as failed."""
    began = time.monotonic()
    with step(session.out, "starting a machine", f"machine {target.typed} started"):
        reached = session.client.machines.wait(
            target.app, target.id, ("started", *ENDED), timeout_s=timeout_s
        )
    session.out.detail(f"started after {time.monotonic() - began:.3f}s")
    if reached["state"] != "started":
        reason, hint = reason_of(session.client.machines.get(target.app, target.id))
        raise MachineFailed(
            f"machine {target.typed} is {reached['state']}: {reason or 'its process has ended'}",
            hint=hint or f"see `{target.command('logs')}`",
        )
