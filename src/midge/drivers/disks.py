"""Files behind a machine's disks and memory: sparse, copied by extents, made ahead where that is possible."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from midge.errors import DriverError, OutOfSpace

COPY_CHUNK_BYTES = 8 * 1024 * 1024
PAGE_BYTES = 4096
MKFS_TIMEOUT_S = 60.0

_MKFS_VERSION = 2  # raise it with the options: blank layers on disk are used by name
# No journal: the layer is blank at each cold start, and a suspended machine keeps its page cache. One per cent for
# inodes would run out for many small files, so one inode for 16 KiB as mke2fs does; no reserved blocks for root. A new
# file reads as zeros, so the inode tables are ready: otherwise each guest would run a thread that writes zeros there.
_MKFS = (
    "mkfs.ext4 -q -F -O ^has_journal,^resize_inode -E lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard,"
    "root_owner=0:0 -m 0 -b 4096 -i 16384 -U 00000000-0000-4000-8000-6d6964676500"
).split()


async def blank_layer(folder: Path, size_mb: int) -> Path:
    """A formatted, empty ext4 file of `size_mb` MiB, made once per size; copies of it are writable layers.

    Raises:
        DriverError: mkfs.ext4 failed. OutOfSpace: no room.
    """
    path = folder / f"blank{_MKFS_VERSION}-{size_mb}m.ext4"
    if path.exists():
        return path
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    # Whoever comes second makes one too and replaces the first: they are alike.
    fresh = folder / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}"
    with fresh.open("wb") as file:
        file.truncate(size_mb * 1024 * 1024)
    process = await asyncio.create_subprocess_exec(
        *_MKFS, str(fresh), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(MKFS_TIMEOUT_S):
            _, errors = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        fresh.unlink(missing_ok=True)
        raise
    if process.returncode != 0:
        fresh.unlink(missing_ok=True)
        raise DriverError(
            f"mkfs.ext4 failed: {errors.decode(errors='replace').strip()[:500]}",
            hint="install e2fsprogs, and check that the disk has room",
        )
    fresh.rename(path)
    return path


def copy_sparse(source: int, target: int) -> int:
    """Copies the data extents of one open file into another, empty one; returns the bytes copied.

    Raises:
        OutOfSpace: no room; the target is incomplete.
    """
    return _copy_extents(source, target, _copy_range)


def copy_without_zeros(source: int, target: int) -> int:
    """As `copy_sparse`, with pages of zeros left out too. For what is copied often later."""
    return _copy_extents(source, target, _copy_pages)


def _copy_extents(source: int, target: int, copy: Callable[[int, int, int, int], int]) -> int:
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    copied = position = 0
    try:
        while position < size:
            try:
                start = os.lseek(source, position, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole is left
                break
            position = os.lseek(source, start, os.SEEK_HOLE)
            copied += copy(source, target, start, position)
    except OSError as error:
        raise OutOfSpace(f"cannot copy {size} bytes: {error.strerror}", hint="free disk space") from error
    return copied


def _copy_pages(source: int, target: int, start: int, end: int) -> int:
    zeros = bytes(PAGE_BYTES)
    copied, at = 0, start
    while at < end:
        chunk = memoryview(os.pread(source, min(end - at, COPY_CHUNK_BYTES), at))
        if not chunk:
            break
        for offset in range(0, len(chunk), PAGE_BYTES):
            page = chunk[offset : offset + PAGE_BYTES]
            if page != zeros[: len(page)]:
                copied += os.pwrite(target, page, at + offset)
        at += len(chunk)
    return copied


def _copy_range(source: int, target: int, start: int, end: int) -> int:
    at = start
    while at < end:
        os.lseek(target, at, os.SEEK_SET)
        done = os.sendfile(target, source, at, min(end - at, COPY_CHUNK_BYTES))
        if done == 0:
            break
        at += done
    return at - start


def opened(stack: contextlib.ExitStack, fd: int) -> int:
    """Has `stack` close a descriptor, and returns it."""
    stack.callback(os.close, fd)
    return fd


def read_only(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def create(path: Path, uid: int | None) -> int:
    """A new empty file, 0600, owned by the VMM's user; an old one of that name is replaced. Returns its descriptor."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if uid is not None:
        os.fchown(fd, uid, uid)
    return fd
