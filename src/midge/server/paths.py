"""Where everything lies below the data directory.

```
central.db  host.db     what the api writes; what the worker writes
images/ kernels/        content-addressed; can be fetched or built again
templates/              snapshots of booted guests; belong to this host's kernel and CPU
machines/<id>/          disks and snapshots of machines
logs/<id>/              what machines print
uploads/                archives on their way in
token                   the root token, mode 0600
server.json             URL and process id of the running server
VERSION lock            layout of this directory; held while a server runs
```

Sockets and process ids live in the run directory, which a reboot may empty.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from midge.errors import MidgeError

LAYOUT_VERSION = 1
SYSTEM_RUN_DIR = Path("/run/midge")
_FOLDERS = ("images", "kernels", "templates", "machines", "logs", "uploads")
_DATABASES = ("central.db", "host.db")


class LayoutTooNew(MidgeError):
    """A newer Midge has written this data directory."""

    code = "layout_too_new"


@dataclass(frozen=True, slots=True)
class Paths:
    """`run_dir` empty: below /run where that can be written, because socket paths may have 107 bytes only."""

    data_dir: Path
    run_dir_wanted: str = ""

    @property
    def central_db(self) -> Path:
        return self.data_dir / "central.db"

    @property
    def host_db(self) -> Path:
        return self.data_dir / "host.db"

    @property
    def images(self) -> Path:
        return self.data_dir / "images"

    @property
    def kernels(self) -> Path:
        return self.data_dir / "kernels"

    @property
    def templates(self) -> Path:
        return self.data_dir / "templates"

    @property
    def machines(self) -> Path:
        return self.data_dir / "machines"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def uploads(self) -> Path:
        return self.data_dir / "uploads"

    @property
    def token(self) -> Path:
        return self.data_dir / "token"

    @property
    def server_json(self) -> Path:
        return self.data_dir / "server.json"

    @property
    def version(self) -> Path:
        return self.data_dir / "VERSION"

    @property
    def lock(self) -> Path:
        return self.data_dir / "lock"

    @property
    def run_dir(self) -> Path:
        if self.run_dir_wanted:
            return Path(self.run_dir_wanted)
        if os.geteuid() != 0:
            return self.data_dir / "run"
        tag = hashlib.sha256(os.fsencode(self.data_dir.resolve())).hexdigest()[:12]
        return SYSTEM_RUN_DIR / tag

    def make(self) -> None:
        """Creates what is missing. Databases are made unreadable to others before anything is in them.

        Raises:
            LayoutTooNew: nothing has been changed then.
        """
        self.data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._check_version()
        for folder in _FOLDERS:
            (self.data_dir / folder).mkdir(mode=0o755, exist_ok=True)
        for database in _DATABASES:
            os.close(os.open(self.data_dir / database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)

    def _check_version(self) -> None:
        try:
            have = int(self.version.read_text().strip())
        except FileNotFoundError:
            self.version.write_text(f"{LAYOUT_VERSION}\n")
            return
        except ValueError as error:
            raise LayoutTooNew(f"{self.version} holds no number", hint="is this a data directory?") from error
        if have > LAYOUT_VERSION:
            raise LayoutTooNew(
                f"{self.data_dir} has layout {have}, this midge knows {LAYOUT_VERSION}",
                hint="start the newer midge again",
            )
