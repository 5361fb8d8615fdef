"""Room on the disk that is the journal's own: a file beside the database, given up when the disk is full.

It is made again as soon as there is room to spare, so that the next full disk finds it, too.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import structlog

RESERVE_BYTES = 4 * 1024 * 1024  # a few thousand journal rows
# Free beside the reserve before it is made again, bytes: it must not be what fills the disk.
SPARE_BYTES = 4 * RESERVE_BYTES
REFILL_INTERVAL_S = 10.0  # between looks whether there is room again

_log = structlog.get_logger("midge.store")


class Reserve:
    """The file. Its methods block, and belong to one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._missing = False
        self._next_try_s = 0.0

    @property
    def due_in_s(self) -> float | None:
        """Seconds until `fill` is worth a try, at least 0; None while there is nothing to do."""
        return max(0.0, self._next_try_s - time.monotonic()) if self._missing else None

    def fill(self) -> None:
        """Makes the file, if there is room; if not, there is another try in REFILL_INTERVAL_S."""
        was_missing, self._missing = self._missing, True
        self._next_try_s = time.monotonic() + REFILL_INTERVAL_S
        with contextlib.suppress(OSError):
            # With one in place already the room is taken.
            if not self.path.exists() and not self._is_room():
                return
            try:
                self._allocate()
            except OSError:
                self.path.unlink(missing_ok=True)
                raise
            self._missing = False
        if was_missing and not self._missing:
            _log.info("the reserve is there again", file=str(self.path))

    def give_up(self) -> bool:
        """True if there was one to give up."""
        self._missing = True
        self._next_try_s = time.monotonic() + REFILL_INTERVAL_S
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        _log.warning("disk full: the reserve is in use", file=str(self.path))
        return True

    def _is_room(self) -> bool:
        free = os.statvfs(self.path.parent)
        return free.f_bavail * free.f_frsize >= RESERVE_BYTES + SPARE_BYTES

    def _allocate(self) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        finally:
            os.close(fd)
