"""One read-only erofs image per container image: what a virtual machine has as its root disk.

Equal layers give equal bytes: mkfs.erofs sorts its entries, the UUID is fixed, and the build time in the
superblock is set to zero afterwards. Its own option for that (-T) is no good: it sets every file's time as well,
and Python would then compile every module at each start, because the times in its caches no longer agree.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
from pathlib import Path

from midge.errors import ImageInvalid, NotSupported, OutOfSpace, Unavailable
from midge.images.fs import space_errors
from midge.images.limits import EROFS_DEVICE_SIZE_BYTES

# Part of a rootfs image's file name: raise it whenever the same layers would give other bytes.
FORMAT_VERSION = 1

_UUID = "00000000-0000-0000-0000-000000000000"
# Longest build of the largest allowed image (30 GiB) on a slow disk (30 MB/s), in seconds.
_BUILD_TIMEOUT_S = 1200
_STDERR_BYTES = 2000

# struct erofs_super_block (fs/erofs/erofs_fs.h): offsets from the start of the image.
_SUPER = 1024
_MAGIC = 0xE0F5E1E2
_CHECKSUM_AT, _COMPAT_AT, _BLKSZBITS_AT, _BUILD_TIME_AT, _BUILD_NSEC_AT, _BLOCKS_AT = 4, 8, 12, 24, 32, 36
_COMPAT_CHECKSUM = 1


async def build(source: Path, dest: Path, *, compression: str | None = None) -> int:
    """Makes an erofs image of a directory tree at `dest`, durable and of the fixed disk size.

    Args:
        source: the merged root file system.
        dest: must not exist; removed again when anything fails.
        compression: ``lz4`` or ``lz4hc``; None keeps files as they are, which is faster to read and lets the
            page cache map them directly.
    Returns:
        Bytes of the image before it was extended.
    Raises:
        OutOfSpace, ImageInvalid, NotSupported (mkfs.erofs is missing), Unavailable (it failed).
    """
    command = ["mkfs.erofs", "--quiet", "--preserve-mtime", "-U", _UUID, "-x2"]
    if compression is not None:
        command.append(f"-z{compression}")
    try:
        await _run([*command, str(dest), str(source)], "building the rootfs image")
        await asyncio.to_thread(_fix_build_time, dest)
        await _run(["fsck.erofs", str(dest)], "checking the rootfs image")
        return await asyncio.to_thread(_finish, dest)
    except BaseException:
        dest.unlink(missing_ok=True)
        raise


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


async def _run(command: list[str], what: str) -> None:
    program = _find(command[0])
    if program is None:
        raise NotSupported(f"{command[0]} is not installed", hint="install the package erofs-utils")
    # With a killed worker its builds end too, instead of filling the disk for a file nobody will find.
    setpriv = _find("setpriv")
    prefix = [] if setpriv is None else [setpriv, "--pdeathsig", "KILL", "--"]
    process = await asyncio.create_subprocess_exec(
        *prefix,
        program,
        *command[1:],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_BUILD_TIMEOUT_S):
            _, stderr = await process.communicate()
    except TimeoutError as error:
        raise Unavailable(f"{what} took longer than {_BUILD_TIMEOUT_S} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        text = stderr[-_STDERR_BYTES:].decode("utf-8", "replace").strip()
        if "No space left" in text or "quota" in text.lower():
            raise OutOfSpace(f"no space left while {what}", hint="remove unused images or enlarge the disk")
        raise Unavailable(f"{what} failed with status {process.returncode}: {text or 'it did not say why'}")


def _fix_build_time(image: Path) -> None:
    """Sets the superblock's build time to zero and its checksum accordingly."""
    with image.open("r+b") as file:
        file.seek(_SUPER)
        head = bytearray(file.read(128))
        if len(head) < 128 or struct.unpack_from("<I", head, 0)[0] != _MAGIC:
            raise ImageInvalid("mkfs.erofs made something that is no erofs image")
        struct.pack_into("<QI", head, _BUILD_TIME_AT, 0, 0)
        if struct.unpack_from("<I", head, _COMPAT_AT)[0] & _COMPAT_CHECKSUM:
            struct.pack_into("<I", head, _CHECKSUM_AT, 0)
            # The checksum covers the superblock up to the end of its block.
            file.seek(_SUPER + len(head))
            rest = file.read((1 << head[_BLKSZBITS_AT]) - _SUPER - len(head))
            struct.pack_into("<I", head, _CHECKSUM_AT, crc32c(bytes(head) + rest))
        file.seek(_SUPER)
        file.write(head)


def _finish(image: Path) -> int:
    """Checks the length against the superblock, extends the file to the fixed disk size and makes it durable."""
    with space_errors("finishing the rootfs image"), image.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(_SUPER)
        head = file.read(128)
        (blocks,) = struct.unpack_from("<I", head, _BLOCKS_AT)
        if size < blocks << head[_BLKSZBITS_AT]:
            raise ImageInvalid("the rootfs image is shorter than its superblock says")
        file.truncate(max(size, EROFS_DEVICE_SIZE_BYTES))
        os.fsync(file.fileno())
    image.chmod(0o444)
    return size


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc32c_table()


def crc32c(data: bytes) -> int:
    """CRC-32C as erofs stores it: starting from all ones, without the final inversion."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value
