"""Templates: a booted kernel with a waiting init, saved once per kind of hardware, from which machines start.

```
templates/<key>/
    memory     the guest's memory, sparse
    state      device state, as QEMU's migration stream (memory not included: x-ignore-shared)
    meta.json  what it was made from, and the hashes of both
```

`key` covers everything that must agree between the QEMU that saved and the one that restores: board, devices, CPU
model, shape, kernel, init, QEMU version. A template is never changed; whatever differs gets another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from midge.drivers.disks import copy_sparse
from midge.drivers.qemu.command import Hardware
from midge.errors import DriverError
from midge.kernel.store import Kernel
from midge.machine.spec import MIB

FORMAT = 1
HASH_CHUNK_BYTES = 4 * 1024 * 1024

_log = structlog.get_logger("midge.qemu")


class Meta(msgspec.Struct, kw_only=True, frozen=True):
    format: int
    key: str
    hardware: str
    kernel: str
    qemu: str
    upper_mb: int
    memory_sha256: str
    memory_bytes: int
    state_sha256: str


@dataclass(frozen=True, slots=True)
class Template:
    """A verified template. The files are opened once, so that a removal does not disturb a start."""

    key: str
    folder: Path
    memory_fd: int
    state: Path

    def close(self) -> None:
        os.close(self.memory_fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a template is made from. `upper_mb` is the size of the writable disk the guest has seen."""

    hardware: Hardware
    kernel: Kernel
    qemu_version: str
    upper_mb: int

    @property
    def key(self) -> str:
        text = "\n".join(
            [str(FORMAT), self.hardware.identity(), self.kernel.id, self.qemu_version, str(self.upper_mb)]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:24]


Build = Callable[[Recipe, Path, Path], Awaitable[None]]


class TemplateStore:
    """Templates by key. Several starts that need the same missing one wait for one build.

    Args:
        build: boots a guest by the recipe and leaves its memory and state in the two files it is given.
    """

    def __init__(self, root: Path, build: Build) -> None:
        self._root = root
        self._build = build
        self._open: dict[str, Template] = {}
        # One build at a time: each keeps a core busy for seconds, and they share the boot address.
        self._building = asyncio.Lock()

    async def ensure(self, recipe: Recipe) -> Template:
        """The template of a recipe, built if there is none that is whole.

        Raises:
            DriverError: the guest did not boot.
        """
        key = recipe.key
        found = self._open.get(key)
        if found is not None:
            return found
        async with self._building:
            found = self._open.get(key)
            if found is None:
                found = await asyncio.to_thread(self._load, key)
                if found is None:
                    await self._make(recipe)
                    found = await asyncio.to_thread(self._load, key)
                if found is None:
                    raise DriverError(
                        f"template {key} is damaged right after it was made", hint="check the disk"
                    )
                self._open[key] = found
        return found

    def resident_mb(self, key: str) -> int:
        """What a guest of this template has of memory right after its restore, MiB; 0 if it is not open."""
        found = self._open.get(key)
        return os.fstat(found.memory_fd).st_blocks * 512 // MIB if found else 0

    def forget(self, key: str) -> None:
        """Drops a template that did not restore: the next start makes it anew."""
        found = self._open.pop(key, None)
        if found is not None:
            found.close()
        shutil.rmtree(self._root / key, ignore_errors=True)

    def close(self) -> None:
        for template in self._open.values():
            template.close()
        self._open.clear()

    async def _make(self, recipe: Recipe) -> None:
        _log.info("building a template", key=recipe.key, shape=recipe.hardware.shape.key)
        folder = self._root / f".{recipe.key}.{os.getpid()}"
        await asyncio.to_thread(_fresh, folder)
        try:
            await self._build(recipe, folder / "memory", folder / "state")
            await asyncio.to_thread(self._publish, recipe, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _publish(self, recipe: Recipe, folder: Path) -> None:
        meta = Meta(
            format=FORMAT,
            key=recipe.key,
            hardware=recipe.hardware.identity(),
            kernel=recipe.kernel.id,
            qemu=recipe.qemu_version,
            upper_mb=recipe.upper_mb,
            memory_sha256=_hash_sparse(folder / "memory"),
            memory_bytes=(folder / "memory").stat().st_size,
            state_sha256=_hash_sparse(folder / "state"),
        )
        (folder / "meta.json").write_bytes(msgspec.json.encode(meta))
        for name in ("memory", "state", "meta.json"):
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
        target = self._root / recipe.key
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)

    def _load(self, key: str) -> Template | None:
        """The template on disk, if it is whole; a damaged one is removed."""
        folder = self._root / key
        try:
            meta = msgspec.json.decode((folder / "meta.json").read_bytes(), type=Meta)
            whole = (
                meta.format == FORMAT
                and meta.key == key
                and _hash_sparse(folder / "memory") == meta.memory_sha256
                and _hash_sparse(folder / "state") == meta.state_sha256
            )
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError):
            whole = False
        if not whole:
            _log.warning("template is damaged and made anew", key=key)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return Template(key, folder, os.open(folder / "memory", os.O_RDONLY | os.O_CLOEXEC), folder / "state")


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)


def _hash_sparse(path: Path) -> str:
    """SHA-256 over size and data extents; holes and zeros of the same file hash alike only as they lie on disk."""
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        digest.update(str(size).encode())
        position = 0
        while position < size:
            chunk = None
            with contextlib.suppress(OSError):
                position = os.lseek(fd, position, os.SEEK_DATA)
                chunk = os.pread(fd, HASH_CHUNK_BYTES, position)
            if not chunk:
                break
            # Runs of zeros are skipped whether they are stored or not: a copy may store what was a hole.
            if chunk.strip(b"\0"):
                digest.update(position.to_bytes(8, "little"))
                digest.update(chunk)
            position += len(chunk)
    finally:
        os.close(fd)
    return digest.hexdigest()


def save_memory(source: Path, target: Path) -> None:
    """Copies a guest's memory into a template, holes kept."""
    read_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        write_fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            copy_sparse(read_fd, write_fd)
        finally:
            os.close(write_fd)
    finally:
        os.close(read_fd)
