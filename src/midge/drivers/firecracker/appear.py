"""Waiting for a name to appear in a directory, by inotify: no polling."""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path
from types import TracebackType
from typing import Self

# linux/inotify.h
_IN_CREATE = 0x0000_0100
_IN_MOVED_TO = 0x0000_0080
_IN_ONLYDIR = 0x0100_0000
_IN_NONBLOCK = os.O_NONBLOCK
_IN_CLOEXEC = os.O_CLOEXEC
_EVENTS_BYTES = 4_096  # read at once and thrown away: that something happened is all


class Appearance:
    """Watches one name from the moment it is made; `wait` returns at once if it was there by then."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._path = path
        self._fd = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self._fd < 0:
            raise _error(path)
        mask = _IN_CREATE | _IN_MOVED_TO | _IN_ONLYDIR
        if libc.inotify_add_watch(self._fd, os.fsencode(path.parent), ctypes.c_uint32(mask)) < 0:
            error = _error(path)
            os.close(self._fd)
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    async def wait(self) -> None:
        """Returns when the name is there; never, if it does not come."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_reader(self._fd, changed.set)
        try:
            while not os.path.lexists(self._path):
                await changed.wait()
                changed.clear()
                os.read(self._fd, _EVENTS_BYTES)
        finally:
            loop.remove_reader(self._fd)


def _error(path: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(path.parent))
