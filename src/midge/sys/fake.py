"""System calls that are recorded instead of made, and that fail on order."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

# Far above any real descriptor, so that a fake one handed to the kernel by mistake is EBADF.
_FIRST_FAKE_FD = 1 << 20


@dataclass
class RecordingSyscalls:
    """A `midge.sys.syscalls.Syscalls` that does nothing but remember.

    Attributes:
        calls: what was called, as ``(name, arguments...)``, oldest first.
        failures: errno to raise by name of call; consumed front to back, 0 means succeed.
    """

    calls: list[tuple[object, ...]] = field(default_factory=list)
    failures: dict[str, list[int]] = field(default_factory=dict)

    def setns(self, fd: int, kind: int = 0) -> None:
        self._record("setns", fd, kind)

    def unshare(self, flags: int) -> None:
        self._record("unshare", flags)

    def mount(
        self, source: str | Path, target: str | Path, fstype: str = "", flags: int = 0, data: str = ""
    ) -> None:
        self._record("mount", str(source), str(target), fstype, flags, data)

    def umount(self, target: str | Path, flags: int = 0) -> None:
        self._record("umount", str(target), flags)

    def pivot_root(self, new_root: str | Path, put_old: str | Path) -> None:
        self._record("pivot_root", str(new_root), str(put_old))

    def prctl(self, option: int, argument: int) -> None:
        self._record("prctl", option, argument)

    def pidfd_open(self, pid: int) -> int:
        self._record("pidfd_open", pid)
        return _FIRST_FAKE_FD + len(self.calls)

    def pidfd_send_signal(self, pidfd: int, number: int) -> None:
        self._record("pidfd_send_signal", pidfd, number)

    def names(self) -> list[str]:
        """The names of the calls, oldest first."""
        return [str(call[0]) for call in self.calls]

    def _record(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        queue = self.failures.get(name)
        if queue and (number := queue.pop(0)):
            raise OSError(number, os.strerror(number), *map(str, arguments[:1]))
