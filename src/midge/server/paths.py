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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


class DataDirUnusable(MidgeError):
    """The data or run directory cannot be made or written."""

    code = "data_dir_unusable"


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
            DataDirUnusable.
        """
        with _usable(self.data_dir, "data directory", "--data-dir"):
            self._make_data_dir()
        self.make_run_dir()

    def make_run_dir(self) -> None:
        """Again under the lock, since a server that ends may have removed it meanwhile. Raises DataDirUnusable."""
        with _usable(self.run_dir, "run directory", "--run-dir"):
            self.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)

    def tidy_run_dir(self) -> None:
        """Removes what is empty of it, itself too unless somebody chose it: no machine runs that needs it."""
        for pattern in ("*/*", "*"):  # deeper down, machines that run on have their own
            for folder in self.run_dir.glob(pattern):
                _remove_if_empty(folder)
        if not self.run_dir_wanted:
            _remove_if_empty(self.run_dir)

    def _make_data_dir(self) -> None:
        self.data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._check_version()
        for folder in _FOLDERS:
            (self.data_dir / folder).mkdir(mode=0o755, exist_ok=True)
        for database in _DATABASES:
            os.close(os.open(self.data_dir / database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

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


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # not empty, most of all, or no directory
        folder.rmdir()


@contextmanager
def _usable(folder: Path, what: str, flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        if isinstance(error, FileExistsError):
            why = "it is a file"
        at = f" at {error.filename}" if error.filename not in (None, str(folder)) else ""
        raise DataDirUnusable(
            f"{folder} cannot be the {what}: {why}{at}",
            hint=f"choose a directory that this user may write, with {flag}",
        ) from None  # the system's error would say it once more
