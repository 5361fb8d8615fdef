"""`midge proxy`: a local port that is a machine's port."""

from __future__ import annotations

import click

from midge.cli.exits import UsageFailure
from midge.cli.failure import doing
from midge.cli.options import app_option, command, machine_argument
from midge.cli.session import Session
from midge.cli.targets import find


@command("proxy")
@click.argument("ports", metavar="LOCAL:REMOTE", help="Two ports, or one for both; LOCAL 0 takes a free one.")
@machine_argument
@app_option
@click.option(
    "-b",
    "--bind-addr",
    "bind",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Listen here.",
)
def proxy(session: Session, ports: str, machine: str, app: str, bind: str) -> None:
    """Forward a local port to a machine's port, until Ctrl-C."""
    from midge.cli.forward import Forwarder

    local, remote = parse_ports(ports)
    target = find(session, machine, app)
    with (
        doing(f"forward port {local} to machine {target.typed}"),
        Forwarder(session, target, remote, bind, local) as forwarder,
    ):
        host, port = forwarder.address
        try:
            if session.out.json:
                session.out.record({"listen": f"{host}:{port}", "id": target.id, "port": remote})
            elif session.out.quiet:
                session.out.line(str(port))
            else:
                session.out.line(f"{host}:{port} is port {remote} of {target.typed}; Ctrl-C ends it")
            forwarder.serve()
        except KeyboardInterrupt:
            return


def parse_ports(text: str) -> tuple[int, int]:
    """``8080:80`` or ``80``. Raises UsageFailure."""
    local, colon, remote = text.partition(":")
    parts = (local, remote) if colon else (local, local)
    if (
        not all(part.isascii() and part.isdigit() and int(part) <= 65_535 for part in parts)
        or int(parts[1]) == 0
    ):
        raise UsageFailure(f"{text!r} names no ports", hint="write it as 8080:80")
    return int(parts[0]), int(parts[1])
