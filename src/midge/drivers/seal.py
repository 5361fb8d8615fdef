"""Seals on saved machines: what is loaded into a VMM is what this host wrote, byte for byte.

A VMM trusts the state it restores. So a snapshot or template is sealed when it is complete, and verified before each
use: digests of every file and the metadata, under an HMAC-SHA256 with a key that only this host has.

    folder/memory, folder/state   sealed files
    folder/seal                   one line of JSON (format, files with size and digest, metadata), one line MAC in hex

Seal files that belong to root, and verify after the VMM that wrote them has ended: before that, one that was taken over
could still change what has been hashed. The seal does not make its content good; it makes it nobody else's.

Digests are BLAKE2b with 256 bits (without SHA instructions nearly twice as fast as SHA-256), on several threads. They
cover content, not layout: a hole and zeros are alike, so files may be copied sparsely, and holes cost nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from midge.drivers.threads import joined_in_thread
from midge.errors import DriverError, OutOfSpace, SnapshotUnusable

SEAL_NAME = "seal"
FORMAT = 1
KEY_BYTES = 32
DIGEST_BYTES = 32
# Bytes read and compared with zeros at once. Part of the format: digests depend on it.
BLOCK_BYTES = 1024 * 1024
# Bytes hashed by one thread in a row. Part of the format too.
SEGMENT_BYTES = 64 * BLOCK_BYTES
# Threads of one seal or verification; it shares the host with starts.
THREADS_MAX = 4
# Bytes of a seal file; larger is not ours.
SEAL_BYTES_MAX = 65_536

_ZEROS = bytes(BLOCK_BYTES)


class _File(msgspec.Struct, frozen=True, kw_only=True):
    size_bytes: int
    blake2b: str


class _Sealed(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    files: dict[str, _File]
    metadata: dict[str, Any]


def host_key(path: Path) -> bytes:
    """This host's key, made at the first use with mode 0600. Blocks.

    Raises:
        DriverError: others than the owner can read it, or it is damaged.
        OutOfSpace: it could not be written.
    """
    with contextlib.suppress(FileNotFoundError):
        return _read_key(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(fd)
        # A link and not a rename: of two processes that make a key, the first one's stays.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutOfSpace(f"cannot write {path}: {error.strerror}", hint="free disk space") from error
    finally:
        draft.unlink(missing_ok=True)
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        key = file.read(KEY_BYTES + 1)
    if stat.S_IMODE(mode) & 0o077:
        raise DriverError(f"{path} can be read by others than its owner", hint=f"chmod 600 {path}")
    if len(key) != KEY_BYTES:
        raise DriverError(
            f"{path} is damaged: it has not {KEY_BYTES} bytes",
            hint=f"remove it; suspended machines then start cold: rm {path}",
        )
    return key


async def seal(
    key: bytes, folder: Path, names: Sequence[str], metadata: dict[str, Any], *, sync: bool = True
) -> None:
    """Hashes the named files of `folder`, forces them to disk, and writes the seal.

    An earlier seal is replaced at once, and stays as it was when this fails or the host loses power: there is never a
    moment without one. When this is cancelled, the seal is written or it is not; nothing goes on.

    Args:
        metadata: JSON; what `verify` gives back, and only together with these very files.
        sync: without, nothing is forced to disk; after a loss of power the seal may be missing, or fit nothing.

    Raises:
        OutOfSpace, DriverError: a file could not be read or written.
    """
    try:
        await joined_in_thread(_seal, key, folder, names, metadata, sync)
    except OSError as error:
        raise DriverError(f"cannot seal {folder}: {error.strerror}", hint="check the disk") from error


async def verify(key: bytes, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The metadata of a folder whose named files are exactly what was sealed.

    Raises:
        SnapshotUnusable: something is missing, was changed, or was sealed by another host.
    """
    return await asyncio.to_thread(_verify, key, folder, names)


def digest_of(path: Path) -> str:
    """The digest of one file's content, as a seal would hold it. Blocks. Raises: OSError."""
    with ThreadPoolExecutor(_threads(), thread_name_prefix="seal") as threads:
        return _describe(path, threads).blake2b


def _seal(key: bytes, folder: Path, names: Sequence[str], metadata: dict[str, Any], sync: bool) -> None:
    with ThreadPoolExecutor(_threads(), thread_name_prefix="seal") as threads:
        files = {name: _describe(folder / name, threads, sync=sync) for name in names}
    payload = msgspec.json.encode(_Sealed(format=FORMAT, files=files, metadata=metadata))
    draft = folder / f".{SEAL_NAME}"
    try:
        with draft.open("wb") as file:
            file.write(payload + b"\n" + _mac(key, payload) + b"\n")
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(folder / SEAL_NAME)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    if sync:
        _sync_folder(folder)


def _verify(key: bytes, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    try:
        with (folder / SEAL_NAME).open("rb") as file:
            payload, _, mac = file.read(SEAL_BYTES_MAX).partition(b"\n")
        # Nothing of it is looked at before this.
        if not hmac.compare_digest(mac.rstrip(b"\n"), _mac(key, payload)):
            raise SnapshotUnusable(f"{folder} was not sealed by this host, or was changed")
        sealed = msgspec.json.decode(payload, type=_Sealed)
        if sealed.format != FORMAT or sealed.files.keys() != set(names):
            raise SnapshotUnusable(f"{folder} was sealed in another format")
        with ThreadPoolExecutor(_threads(), thread_name_prefix="seal") as threads:
            for name, expected in sealed.files.items():
                if (folder / name).lstat().st_size != expected.size_bytes:
                    raise SnapshotUnusable(f"{folder / name} has another size than when it was sealed")
                if _describe(folder / name, threads) != expected:
                    raise SnapshotUnusable(f"{folder / name} has changed since it was sealed")
    except (OSError, msgspec.MsgspecError) as error:
        raise SnapshotUnusable(f"{folder} is incomplete") from error
    return sealed.metadata


def _mac(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, b"midge seal\n" + payload, "sha256").hex().encode()


def _describe(path: Path, threads: ThreadPoolExecutor, *, sync: bool = False) -> _File:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if sync:
            os.fsync(fd)
        return _File(size_bytes=os.fstat(fd).st_size, blake2b=_digest(fd, threads))
    finally:
        os.close(fd)


def _digest(fd: int, threads: ThreadPoolExecutor) -> str:
    """A digest over the digests of segments, each over its blocks that are not zero, with their positions."""
    size = os.fstat(fd).st_size
    whole = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=DIGEST_BYTES)
    for segment in threads.map(
        lambda start: _digest_segment(fd, start, min(start + SEGMENT_BYTES, size)),
        range(0, size, SEGMENT_BYTES),
    ):
        whole.update(segment)
    return whole.hexdigest()


def _digest_segment(fd: int, start: int, end: int) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    buffer = bytearray(BLOCK_BYTES)
    view = memoryview(buffer)
    for position in _data_blocks(fd, start, end):
        wanted = min(BLOCK_BYTES, end - position)
        if os.preadv(fd, [view[:wanted]], position) != wanted:
            raise OSError(5, "file is shorter than it was")
        # Zeros that are stored count as a hole: a copy may have stored what was none.
        if view[:wanted] != _ZEROS[:wanted]:
            digest.update(position.to_bytes(8, "little"))
            digest.update(view[:wanted])
    return digest.digest()


def _data_blocks(fd: int, start: int, end: int) -> Iterable[int]:
    """Positions of the blocks between `start` and `end` in which there may be data."""
    position = start
    while position < end:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        position = max(position, data - data % BLOCK_BYTES)
        if position < end:
            yield position
        position += BLOCK_BYTES


def _threads() -> int:
    return max(1, min(THREADS_MAX, os.cpu_count() or 1))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
