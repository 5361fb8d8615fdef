"""`midge doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from midge.cli import exits
from midge.cli.options import command
from midge.cli.session import Session

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}


@command("doctor")
@click.argument("names", nargs=-1, metavar="[CHECK]...", help="Only these.")
@click.option(
    "--data-dir", default="", metavar="DIR", help="The server's data directory. [env: MIDGE_DATA_DIR]"
)
def doctor(session: Session, names: tuple[str, ...], data_dir: str) -> int:
    """Check what this host can do, and say how to mend it. Exit code 1 when a check fails."""
    from midge.cli.doctor import registry
    from midge.cli.doctor.server import server_data_dir
    from midge.cli.host import kernels_directory
    from midge.doctor.check import Host
    from midge.server.settings import load_settings

    unknown = set(names) - {check.name for check in registry.CHECKS}
    if unknown:
        known = ", ".join(check.name for check in registry.CHECKS)
        raise click.UsageError(f"no check {sorted(unknown)[0]!r}; there are {known}")
    out = session.out
    settings = load_settings({"data_dir": data_dir or None}, session.env).settings
    folder = Path(settings.data_dir)
    if not data_dir and not session.env.get("MIDGE_DATA_DIR"):
        folder = server_data_dir(session) or folder
    host = Host(session, data_dir=folder, kernels_dir=kernels_directory(settings))
    found = []
    for check, finding in registry.run(host, frozenset(names)):
        found.append((check, finding))
        if out.json:
            continue
        if out.quiet:
            if finding.state == "fail":
                out.line(check.name)
            continue
        state = out.styled(f"{finding.state:4}", _STYLES[finding.state])
        out.line(f"{state}  {check.name:16} {finding.message}")
        if finding.fix and finding.state in ("warn", "fail"):
            out.line(f"{'':23}fix: {finding.fix}")
    failed = any(finding.state == "fail" for _, finding in found)
    if out.json:
        out.document(
            {
                "ok": not failed,
                "checks": [
                    {"name": c.name, "about": c.about, "state": f.state, "message": f.message, "fix": f.fix}
                    for c, f in found
                ],
            }
        )
    return exits.FAILED if failed else exits.OK
