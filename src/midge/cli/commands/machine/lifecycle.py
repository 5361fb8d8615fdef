"""`midge machine start | stop | restart | suspend | destroy | kill`: one or several machines, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import click

from midge.cli.ask import confirm
from midge.cli.commands.machine.failed import not_done
from midge.cli.failure import doing
from midge.cli.options import (
    Duration,
    app_option,
    command,
    detach_option,
    machines_argument,
    wait_timeout_option,
    yes_option,
)
from midge.cli.session import Session
from midge.cli.targets import Target, find_all
from midge.cli.waiting import wait_for


@command("start")
@machines_argument
@app_option
@detach_option
@wait_timeout_option
def start(session: Session, machines: tuple[str, ...], app: str, detach: bool, wait_timeout: float) -> None:
    """Start machines, or resume suspended ones.

    One that runs already is left alone.
    """

    def act(target: Target) -> None:
        session.client.machines.start(target.app, target.id)

    _each(session, machines, app, "start", act, _states(("started",), detach), wait_timeout)


@command("stop")
@machines_argument
@app_option
@click.option(
    "-s", "--signal", default="", metavar="NAME", help="Instead of the machine's own, such as SIGTERM."
)
@click.option(
    "-t",
    "--timeout",
    type=Duration(),
    default=None,
    metavar="DURATION",
    help="Until it is killed; else the machine's own.",
)
@detach_option
@wait_timeout_option
def stop(
    session: Session,
    machines: tuple[str, ...],
    app: str,
    signal: str,
    timeout: float | None,
    detach: bool,
    wait_timeout: float,
) -> None:
    """Stop machines.

    One that is stopped already is left alone; a suspended one loses its saved memory.
    """

    def act(target: Target) -> None:
        session.client.machines.stop(target.app, target.id, signal=signal.upper(), timeout=_go(timeout))

    _each(session, machines, app, "stop", act, _states(("stopped", "destroyed"), detach), wait_timeout)


@command("restart")
@machines_argument
@app_option
@click.option("-s", "--signal", default="", metavar="NAME", help="To stop it with.")
@click.option(
    "-t", "--timeout", type=Duration(), default=None, metavar="DURATION", help="Until it is killed."
)
@click.option("--force", "--force-stop", "force", is_flag=True, help="Kill it at once.")
@detach_option
@wait_timeout_option
def restart(
    session: Session,
    machines: tuple[str, ...],
    app: str,
    signal: str,
    timeout: float | None,
    force: bool,
    detach: bool,
    wait_timeout: float,
) -> None:
    """Stop machines and start them again, in the same version."""

    def act(target: Target) -> None:
        session.client.machines.restart(
            target.app, target.id, signal=signal.upper(), timeout=_go(timeout), force=force
        )

    _each(session, machines, app, "restart", act, _states(("started",), detach), wait_timeout)


@command("suspend")
@machines_argument
@app_option
@detach_option
@wait_timeout_option
def suspend(session: Session, machines: tuple[str, ...], app: str, detach: bool, wait_timeout: float) -> None:
    """Save machines' memory and end them; `start` brings them back where they were."""

    def act(target: Target) -> None:
        session.client.machines.suspend(target.app, target.id)

    # One that could not be saved runs on: whatever it comes to rest in ends the wait.
    _each(
        session, machines, app, "suspend", act, _states(("settled",), detach), wait_timeout, _check_suspended
    )


def _check_suspended(session: Session, target: Target, state: str) -> None:
    """Raises MachineFailed, with what the latest suspend says, for a machine that is not suspended."""
    if state in ("suspended", "stopped"):
        return
    machine = session.client.machines.get(target.app, target.id)
    suspends = [event for event in machine.get("events") or [] if event["type"] == "suspend"]
    raise not_done(target, {**machine, "events": suspends[:1]}, "was not suspended")


@command("destroy")
@machines_argument
@app_option
@click.option("-f", "--force", is_flag=True, help="Also when it runs.")
@yes_option
@detach_option
@wait_timeout_option
def destroy(
    session: Session,
    machines: tuple[str, ...],
    app: str,
    force: bool,
    yes: bool,
    detach: bool,
    wait_timeout: float,
) -> None:
    """Destroy machines. There is no way back.

    Asks only with --force: without it only machines that do not run are destroyed.
    """
    targets = find_all(session, machines, app)
    running = [target for target in targets if target.state in ("started", "starting")]
    if force and running and not yes:
        confirm(session, f"Destroy {', '.join(t.typed for t in running)}, still running?")

    def act(target: Target) -> None:
        session.client.machines.destroy(target.app, target.id, force=force)

    _all(session, targets, "destroy", act, _states(("destroyed",), detach), wait_timeout)


@command("kill")
@machines_argument
@app_option
@click.option(
    "-s", "--signal", default="SIGKILL", show_default=True, metavar="NAME", help="By name or number."
)
def kill(session: Session, machines: tuple[str, ...], app: str, signal: str) -> None:
    """Send a signal to machines' main processes."""
    name: str | int = int(signal) if signal.isdigit() else signal.upper()
    if isinstance(name, str) and not name.startswith("SIG"):
        name = f"SIG{name}"

    def act(target: Target) -> None:
        session.client.machines.signal(target.app, target.id, name)

    _each(session, machines, app, "signal", act, (), 0)


def _states(states: tuple[str, ...], detach: bool) -> tuple[str, ...]:
    return () if detach else states


def _go(timeout_s: float | None) -> str:
    """A duration as the API reads it everywhere; empty: the machine's own."""
    return "" if timeout_s is None else f"{round(timeout_s * 1000)}ms"


def _each(
    session: Session,
    names: tuple[str, ...],
    app: str,
    verb: str,
    act: Callable[[Target], None],
    states: tuple[str, ...],
    timeout_s: float,
    check: Callable[[Session, Target, str], None] | None = None,
) -> None:
    _all(session, find_all(session, names, app), verb, act, states, timeout_s, check)


def _all(
    session: Session,
    targets: list[Target],
    verb: str,
    act: Callable[[Target], None],
    states: tuple[str, ...],
    timeout_s: float,
    check: Callable[[Session, Target, str], None] | None = None,
) -> None:
    """Asks for all of them first, then waits: they stop side by side."""
    for target in targets:
        with doing(f"{verb} machine {target.typed}"):
            act(target)
    for target in targets:
        if states:
            with doing(f"see machine {target.typed} {states[0]}"):
                state = wait_for(session, target, states, timeout_s)
            if check is not None:
                with doing(f"{verb} machine {target.typed}"):
                    check(session, target, state)
        else:
            state = ""
        _report(session, target, state)


def _report(session: Session, target: Target, state: str) -> None:
    if session.out.json:
        session.out.record({"id": target.id, "app": target.app, "state": state or None})
    elif session.out.quiet:
        session.out.line(target.id)
    elif state:
        session.out.line(f"{target.typed} {state}")
    else:
        session.out.line(f"{target.typed} asked")
