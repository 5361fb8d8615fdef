"""One process at a time: a lock the kernel releases when its holder dies, however it dies."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from midge.errors import Conflict

# How long to wait for a predecessor that is just ending, and between two looks, in seconds.
LOCK_TIMEOUT_S = 5.0
_POLL_S = 0.05


class StoreLock:
    """An flock on the store's lock file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    async def acquire(self, timeout_s: float = LOCK_TIMEOUT_S) -> None:
        """Takes the lock.

        Raises:
            Conflict: another process holds it.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(max(int(timeout_s / _POLL_S), 1)):
                if _try(fd):
                    self._fd = fd
                    return
                await asyncio.sleep(_POLL_S)
            raise Conflict(
                f"another process uses the image store {self._path.parent}", hint="stop it, or ask it instead"
            )
        finally:
            if self._fd != fd:
                os.close(fd)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
