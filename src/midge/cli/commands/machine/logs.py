"""`midge machine logs`."""

from __future__ import annotations

import click

from midge.cli.failure import doing
from midge.cli.options import app_option, command, machine_argument
from midge.cli.session import Session
from midge.cli.targets import find


@command("logs")
@machine_argument
@app_option
@click.option("-f", "--follow", is_flag=True, help="Go on as output comes.")
@click.option(
    "-n",
    "--tail",
    type=click.IntRange(min=0),
    default=None,
    metavar="LINES",
    help="The last so many lines only.",
)
@click.option("--since", default="", metavar="TIME", help="Only later: 10m, 1h30m, or an RFC 3339 time.")
@click.option("--stream", type=click.Choice(["stdout", "stderr"]), default=None, help="Only this one.")
@click.option("--timestamps", is_flag=True, help="Put the time in front of each line.")
def logs(
    session: Session,
    machine: str,
    app: str,
    follow: bool,
    tail: int | None,
    since: str,
    stream: str | None,
    timestamps: bool,
) -> None:
    """Print a machine's output: its stdout to stdout, its stderr to stderr."""
    from midge.client.logs import parse

    target = find(session, machine, app)
    out = session.out
    with (
        doing(f"read the output of machine {target.typed}"),
        session.client.machines.logs(
            target.app, target.id, follow=follow, tail=tail, since=since, stream=stream or ""
        ) as lines,
    ):
        try:
            begun = False
            for line in lines:
                if out.json:
                    out.raw(line + b"\n")
                    continue
                record = parse(line)
                prefix = f"{record.timestamp} ".encode() if timestamps and not begun else b""
                begun = record.partial
                out.raw(prefix + record.data, to_stderr=record.stream == "stderr")
        except KeyboardInterrupt:
            # To stop following is how following ends.
            return
