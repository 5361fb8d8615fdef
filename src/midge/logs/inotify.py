"""Waiting for a file in a directory to change: inotify(7) through ctypes, on the event loop."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

_IN_MODIFY = 0x002
_IN_MOVED_TO = 0x080
_IN_CREATE = 0x100
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65_536

_libc = ctypes.CDLL(None, use_errno=True)


class FileWatch:
    """Wakes its one waiter when a file of that name is written, made or renamed into place.

    Level-triggered: `arm`, look at the file, and `wait` only if there was nothing new; a change after `arm` is not
    missed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._changed = asyncio.Event()

    def __enter__(self) -> Self:
        """Begins to watch.

        Raises:
            OSError: the directory does not exist, or the system is out of watches.
        """
        self._fd = _check(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), self._path)
        try:
            directory = os.fsencode(self._path.parent)
            mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE
            _check(_libc.inotify_add_watch(self._fd, directory, mask), self._path)
        except OSError:
            os.close(self._fd)
            raise
        asyncio.get_running_loop().add_reader(self._fd, self._on_readable)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def arm(self) -> None:
        """From now on a change ends the next `wait`."""
        self._changed.clear()

    async def wait(self) -> None:
        """Waits for a change since `arm`."""
        await self._changed.wait()

    def _on_readable(self) -> None:
        data = os.read(self._fd, _READ_BYTES)
        name = os.fsencode(self._path.name)
        at = 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW or data[at - length : at].rstrip(b"\0") == name:
                self._changed.set()


def _check(result: int, path: Path) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return result
