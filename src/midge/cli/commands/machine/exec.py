"""`midge machine exec`."""

from __future__ import annotations

import click

from midge.cli import terminal
from midge.cli.attach import attach
from midge.cli.exits import UsageFailure
from midge.cli.failure import doing
from midge.cli.options import Duration, app_option, machine_argument, pass_through
from midge.cli.session import Session
from midge.cli.targets import Target, find


@pass_through("exec", remote=True)
@machine_argument
@click.argument(
    "cmd", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED, help="What to run."
)
@app_option
@click.option("-i", "--stdin", "--interactive", "stdin", is_flag=True, help="Pass stdin on, byte by byte.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal; needs one here.")
@click.option("-e", "--env", "env", multiple=True, metavar="NAME=VALUE", help="Environment.")
@click.option("--user", default="", metavar="USER[:GROUP]", help="In place of the machine's.")
@click.option("--workdir", default="", metavar="PATH", help="In place of the machine's.")
@click.option("--timeout", type=Duration(), default=None, metavar="DURATION", help="Kill it after so long.")
def exec_command(
    session: Session,
    machine: str,
    cmd: tuple[str, ...],
    app: str,
    stdin: bool,
    tty: bool,
    env: tuple[str, ...],
    user: str,
    workdir: str,
    timeout: float | None,
) -> int:
    """Run a command in a running machine.

    The exit code is the command's: 128+n when signal n ended it, 126 and 127 when it cannot be executed or is not
    there, 125 when Midge failed.
    """
    if tty:
        require_terminal()
    target = find(session, machine, app)
    variables = dict(_variable(item) for item in env)
    return execute(
        session,
        target,
        list(cmd),
        stdin=stdin,
        tty=tty,
        env=variables,
        user=user,
        cwd=workdir,
        timeout_s=0 if timeout is None else max(1, round(timeout)),
    )


def execute(
    session: Session,
    target: Target,
    argv: list[str],
    *,
    stdin: bool,
    tty: bool,
    env: dict[str, str] | None = None,
    user: str = "",
    cwd: str = "",
    timeout_s: int = 0,
) -> int:
    """Runs a command in a machine on this terminal; returns its exit code."""
    from midge.client.execution import start_message

    start = start_message(
        argv,
        env=terminal_variables(session) | (env or {}) if tty else env,
        user=user,
        cwd=cwd,
        tty=terminal.size() if tty else None,
        stdin=stdin,
        timeout_s=timeout_s,
    )
    with (
        doing(f"run {argv[0]} in machine {target.typed}"),
        session.client.machines.exec(target.app, target.id, start) as running,
    ):
        return attach(running, session.out, stdin=stdin, tty=tty)


def terminal_variables(session: Session) -> dict[str, str]:
    """The remote program has to know what kind of terminal it draws on."""
    return {"TERM": session.env["TERM"]} if session.env.get("TERM") else {}


def require_terminal() -> None:
    """Raises UsageFailure when stdin is no terminal."""
    if not terminal.stdin_is_terminal():
        raise UsageFailure(
            "--tty needs a terminal, and stdin is none", hint="leave --tty out, or use `-i` alone"
        )


def _variable(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not (name and equals):
        raise UsageFailure(f"--env {item!r} is not NAME=VALUE")
    return name, value
