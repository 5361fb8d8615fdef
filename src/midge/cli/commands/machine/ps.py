"""`midge machine ps`."""

from __future__ import annotations

from midge.cli import text
from midge.cli.failure import doing
from midge.cli.options import app_option, command, machine_argument
from midge.cli.session import Session
from midge.cli.targets import find


@command("ps")
@machine_argument
@app_option
def ps(session: Session, machine: str, app: str) -> None:
    """List the processes inside a machine."""
    target = find(session, machine, app)
    with doing(f"list the processes of machine {target.typed}"):
        found = session.client.machines.processes(target.app, target.id)
    if session.out.json:
        session.out.document(found)
    elif session.out.quiet:
        for process in found:
            session.out.line(str(process["pid"]))
    else:
        rows = [
            [
                str(process["pid"]),
                f"{process.get('cpu', 0) / 1000:.2f}s",
                text.size(process.get("rss", 0)),
                " ".join(f"{s['proto']}:{s['address']}" for s in process.get("listen_sockets") or []),
                process.get("command", ""),
            ]
            for process in found
        ]
        session.out.table(["PID", "CPU", "RSS", "LISTENS", "COMMAND"], rows)
