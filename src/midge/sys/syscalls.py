"""Linux system calls that Python 3.11 does not have, behind a seam.

Code that mounts, enters namespaces or pivots takes a `Syscalls`; production passes `LINUX`, tests pass
`midge.sys.fake.RecordingSyscalls`. Namespaces belong to a *thread*: call `setns` and `unshare` only on a thread
you own, never on the event loop's.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from typing import Protocol

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 1 << 14
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

# From asm-generic/unistd.h and x86_64's table; libc has no wrapper for it.
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}


class Syscalls(Protocol):
    """Each call raises OSError with the errno and the path or file descriptor it was about."""

    def setns(self, fd: int, kind: int = 0) -> None: ...

    def unshare(self, flags: int) -> None: ...

    def mount(
        self, source: str | Path, target: str | Path, fstype: str = "", flags: int = 0, data: str = ""
    ) -> None: ...

    def umount(self, target: str | Path, flags: int = 0) -> None: ...

    def pivot_root(self, new_root: str | Path, put_old: str | Path) -> None: ...

    def prctl(self, option: int, argument: int) -> None: ...

    def pidfd_open(self, pid: int) -> int: ...

    def pidfd_send_signal(self, pidfd: int, number: int) -> None: ...


class LinuxSyscalls:
    """The real calls, through libc. The library is looked up at the first call."""

    def __init__(self) -> None:
        self._loaded: ctypes.CDLL | None = None

    @property
    def _libc(self) -> ctypes.CDLL:
        if self._loaded is None:
            self._loaded = ctypes.CDLL(None, use_errno=True)
        return self._loaded

    def setns(self, fd: int, kind: int = 0) -> None:
        """Moves the calling thread into the namespace `fd` is open on; `kind` is a CLONE_NEW* or 0 for any."""
        _check(self._libc.setns(fd, kind), f"setns of fd {fd}")

    def unshare(self, flags: int) -> None:
        """Gives the calling thread new namespaces, of the CLONE_NEW* kinds in `flags`."""
        _check(self._libc.unshare(flags), f"unshare {flags:#x}")

    def mount(
        self, source: str | Path, target: str | Path, fstype: str = "", flags: int = 0, data: str = ""
    ) -> None:
        """mount(2). Empty `fstype` and `data` are passed as NULL."""
        result = self._libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            fstype.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        )
        _check(result, target)

    def umount(self, target: str | Path, flags: int = 0) -> None:
        """umount2(2)."""
        _check(self._libc.umount2(os.fsencode(target), flags), target)

    def pivot_root(self, new_root: str | Path, put_old: str | Path) -> None:
        """pivot_root(2)."""
        number = ctypes.c_long(_SYS_PIVOT_ROOT[os.uname().machine])
        _check(self._libc.syscall(number, os.fsencode(new_root), os.fsencode(put_old)), new_root)

    def prctl(self, option: int, argument: int) -> None:
        """prctl(2) with one argument; the other three are zero."""
        unused = ctypes.c_ulong(0)
        result = self._libc.prctl(option, ctypes.c_ulong(argument), unused, unused, unused)
        _check(result, f"prctl {option}")

    def pidfd_open(self, pid: int) -> int:
        """A file descriptor for process `pid`, close-on-exec."""
        return os.pidfd_open(pid)

    def pidfd_send_signal(self, pidfd: int, number: int) -> None:
        """Sends a signal to exactly the process `pidfd` was opened on, never to a later owner of its pid."""
        signal.pidfd_send_signal(pidfd, number)


def _check(result: int, subject: str | Path) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(subject))


LINUX = LinuxSyscalls()
