"""File-system calls the standard library lacks, and the few idioms the store relies on."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from midge.errors import NotSupported, OutOfSpace
from midge.images.limits import RESERVED_FREE_BYTES

_SYS_OPENAT2 = 437  # the same number on every architecture
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

# openat2 answers EAGAIN when a rename anywhere on the system raced with its walk (openat2(2)).
_OPENAT2_TRIES = 64


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def open_in_root(root_fd: int, path: bytes, flags: int, resolve: int) -> int:
    """openat2(2): opens `path` with `root_fd` as the root directory that neither ``..`` nor any link can leave.

    Raises:
        OSError: as open(2) does.
        NotSupported: the kernel is older than 5.6, or a seccomp filter hides the call.
    """
    how = _OpenHow(
        flags | os.O_CLOEXEC, 0, resolve | RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
    )
    for _ in range(_OPENAT2_TRIES):
        fd: int = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(root_fd),
            ctypes.c_char_p(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code == errno.ENOSYS:
            raise NotSupported("this kernel has no openat2", hint="images need Linux 5.6 or newer")
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), os.fsdecode(path))


def sync_file_system(path: Path) -> None:
    """syncfs(2): makes everything written to this file system durable.

    One call instead of an fsync for each of ten thousand small files.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(fd)


def sync_path(path: Path) -> None:
    """fsync of a file or directory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, data: bytes, *, scratch: Path) -> None:
    """Replaces a file durably: after a crash it has the old content or the new, never a mixture.

    Args:
        scratch: a directory on the same file system whose leftovers somebody removes.
    """
    draft = scratch / f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def disk_usage(path: Path) -> int:
    """Bytes a file or a whole tree occupies; hard links within it count once."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return 0
    total = info.st_blocks * 512
    if stat.S_ISDIR(info.st_mode):
        seen: set[int] = set()
        for directory, names, files in os.walk(path):
            for name in (*names, *files):
                info = os.lstat(f"{directory}/{name}")
                if info.st_nlink == 1 or stat.S_ISDIR(info.st_mode) or info.st_ino not in seen:
                    seen.add(info.st_ino)
                    total += info.st_blocks * 512
    return total


def remove_tree(path: Path) -> None:
    """Removes a file or a whole tree without following links; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def free_bytes(path: Path) -> int:
    """Bytes the file system has left for unprivileged writers."""
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize


def require_space(path: Path, wanted_bytes: int, what: str) -> None:
    """Raises `OutOfSpace` now if `wanted_bytes` would leave less than the reserve."""
    free = free_bytes(path)
    if free < wanted_bytes + RESERVED_FREE_BYTES:
        raise OutOfSpace(
            f"{what} needs about {wanted_bytes >> 20} MiB, and the file system of the image store has "
            f"{free >> 20} MiB free, of which {RESERVED_FREE_BYTES >> 20} MiB are kept in reserve",
            hint="remove unused images or enlarge the disk",
            path=str(path),
        )


@contextmanager
def space_errors(what: str) -> Iterator[None]:
    """Turns "no space left" and "quota exceeded" into `OutOfSpace`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(
                f"no space left while {what}", hint="remove unused images or enlarge the disk"
            ) from error
        raise
