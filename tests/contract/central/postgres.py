"""A PostgreSQL server of the tests' own: in a temporary directory, on a Unix socket, not as root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql")  # VERSION/bin
USER = "nobody"  # whom the server runs as where the tests run as root
_TIMEOUT_S = 60


def find_programs() -> Path | None:
    """The folder with the newest server's programs."""
    found = [path.parent for path in DEBIAN.glob("*/bin/initdb")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


@contextmanager
def running_postgres(programs: Path) -> Iterator[Path]:
    """Yields the directory of its socket; the superuser is ``midge``."""
    user = USER if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="midge-postgres-"))
    try:
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        data = folder / "data"

        def run(name: str, *arguments: str) -> None:
            subprocess.run(
                [str(programs / name), *arguments],
                user=user,
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
                timeout=_TIMEOUT_S,
            )

        run(
            "initdb",
            "--pgdata",
            str(data),
            "--username=midge",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
        )
        options = f"-c listen_addresses= -c unix_socket_directories={folder}"
        run("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield folder
        finally:
            run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
