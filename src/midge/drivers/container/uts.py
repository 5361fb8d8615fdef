"""The host name of a container that runs already.

A container's own root may not set it: that takes CAP_SYS_ADMIN, which no process in a container ever has. So it is set
from outside, by a thread that enters the container's UTS namespace and no other, and holds nothing but two names.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from midge.cgroup import Cgroup
from midge.errors import DriverError
from midge.sys.syscalls import CLONE_NEWUTS, LINUX, Syscalls

_OWN = Path("/proc/thread-self/ns/uts")


def open_namespace(pid: int, cgroup: Cgroup) -> int:
    """A descriptor of the namespace of a container's init, which must be in `cgroup`; the caller closes it.

    Raises:
        DriverError: it does not run any more, or has no namespace of its own.
    """
    try:
        fd = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DriverError(f"process {pid} of container {cgroup.name} has ended") from error
    # Asked after it was opened: the number may have become somebody else's, who is not in the group. And whatever
    # goes wrong, it is never the host that gets a machine's name.
    if pid in cgroup.pids() and not os.path.samestat(os.fstat(fd), _OWN.stat()):
        return fd
    os.close(fd)
    raise DriverError(f"process {pid} is not the init of container {cgroup.name}")


def set_hostname(namespace: int, hostname: str, syscalls: Syscalls = LINUX) -> None:
    """Blocks, and moves the calling thread there and back: not for the event loop's. Raises: OSError."""
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace, CLONE_NEWUTS)
        try:
            socket.sethostname(hostname)
        finally:
            syscalls.setns(home, CLONE_NEWUTS)
    finally:
        os.close(home)
