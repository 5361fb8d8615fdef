"""Named network namespaces, compatible with ``ip netns``.

A name is a file in /run/netns with the namespace bound on it. Everything here blocks and, inside `entered`, moves the
calling thread: run it on a thread of your own.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from midge.sys.syscalls import (
    CLONE_NEWNET,
    LINUX,
    MNT_DETACH,
    MS_BIND,
    MS_REC,
    MS_SHARED,
    Syscalls,
)

NETNS_DIR = Path("/run/netns")
_prepared = threading.Lock()


def path_of(name: str) -> Path:
    return NETNS_DIR / name


def names() -> list[str]:
    """Every named namespace of the host, sorted."""
    try:
        return sorted(path.name for path in NETNS_DIR.iterdir())
    except FileNotFoundError:
        return []


@contextmanager
def created(name: str, syscalls: Syscalls = LINUX) -> Iterator[None]:
    """Makes a namespace, names it, and runs the block inside it. Raises: OSError, FileExistsError if it exists."""
    prepare_directory(syscalls)
    target = path_of(name)
    os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(CLONE_NEWNET)
        try:
            syscalls.mount("/proc/thread-self/ns/net", target, flags=MS_BIND)
            yield
        finally:
            syscalls.setns(home, CLONE_NEWNET)
    except BaseException:
        remove(name, syscalls)
        raise
    finally:
        os.close(home)


@contextmanager
def entered(path: Path, syscalls: Syscalls = LINUX) -> Iterator[None]:
    """Runs the block inside the namespace at `path`. Raises: OSError."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(there, CLONE_NEWNET)
        finally:
            os.close(there)
        try:
            yield
        finally:
            syscalls.setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


def remove(name: str, syscalls: Syscalls = LINUX) -> None:
    """Takes the name away; the namespace ends with its last process. Nothing happens if there is no such name."""
    target = path_of(name)
    try:
        syscalls.umount(target, MNT_DETACH)
    except OSError as error:
        # EINVAL: only the file, from a creation that died before its mount.
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    target.unlink(missing_ok=True)


def prepare_directory(syscalls: Syscalls = LINUX) -> None:
    """Makes /run/netns a shared mount, as ``ip netns`` does: names made later appear in every mount namespace."""
    with _prepared:
        NETNS_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            syscalls.mount("", NETNS_DIR, flags=MS_SHARED | MS_REC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # EINVAL: not a mount point yet, the first namespace since boot.
            syscalls.mount(NETNS_DIR, NETNS_DIR, flags=MS_BIND | MS_REC)
            syscalls.mount("", NETNS_DIR, flags=MS_SHARED | MS_REC)
