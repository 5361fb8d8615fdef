"""Templates on disk: booted, waiting guests that any machine of their shape starts from.

    ROOT/KEY/memory, state, seal     a template; the key covers everything a restore depends on
    ROOT/.KEY.PID/                   being made

A template appears under its key whole or not at all, is never changed, and is verified against its seal when it is
first used. Several starts that need the same missing one wait for one build.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import structlog

from midge.drivers import seal
from midge.errors import DriverError, SnapshotUnusable
from midge.machine.spec import MIB

NAMES = ("memory", "state")

_log = structlog.get_logger("midge.templates")


class Recipe(Protocol):
    """What a template is made from."""

    @property
    def key(self) -> str:
        """A file name that is the same only where a restore works."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the key is made from, for the seal."""
        ...


R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True, slots=True)
class Template:
    """A template whose files are what was sealed."""

    key: str
    folder: Path

    @property
    def memory(self) -> Path:
        return self.folder / "memory"

    @property
    def state(self) -> Path:
        return self.folder / "state"


class TemplateStore(Generic[R]):
    """Templates by key.

    Args:
        build: boots a guest by the recipe and leaves `NAMES` in the folder it is given.
        key_file: the host's key for seals.
    """

    def __init__(self, root: Path, build: Callable[[R, Path], Awaitable[None]], *, key_file: Path) -> None:
        self._root = root
        self._build = build
        self._key_file = key_file
        self._ready: dict[str, Template] = {}
        # One build at a time: each keeps a core busy, and they share the boot address.
        self._building = asyncio.Lock()

    async def ensure(self, recipe: R) -> Template:
        """The template of a recipe, built if there is none that is whole.

        Raises:
            DriverError: the guest did not boot, or could not be saved.
        """
        key = recipe.key
        if (found := self._ready.get(key)) is not None:
            return found
        async with self._building:
            found = self._ready.get(key) or await self._load(recipe)
            if found is None:
                await self._make(recipe)
                found = await self._load(recipe)
            if found is None:
                raise DriverError(f"template {key} is damaged right after it was made", hint="check the disk")
            self._ready[key] = found
        return found

    def resident_mb(self, key: str) -> int:
        """What a guest of this template has of memory right after its restore, MiB; 0 if it is not in use."""
        found = self._ready.get(key)
        try:
            return found.memory.stat().st_blocks * 512 // MIB if found else 0
        except OSError:
            return 0

    async def forget(self, key: str) -> None:
        """Drops a template that did not restore: the next start makes it anew."""
        self._ready.pop(key, None)
        await asyncio.to_thread(shutil.rmtree, self._root / key, ignore_errors=True)

    async def sweep(self) -> list[str]:
        """Removes what dead processes left half made; returns the names."""
        return await asyncio.to_thread(self._sweep)

    def _sweep(self) -> list[str]:
        left = [path for path in self._root.glob(".*.*") if not path.name.endswith(f".{os.getpid()}")]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        return [path.name for path in left]

    async def _make(self, recipe: R) -> None:
        _log.info("building a template", key=recipe.key)
        folder = self._root / f".{recipe.key}.{os.getpid()}"
        await asyncio.to_thread(_fresh, folder)
        try:
            await self._build(recipe, folder)
            key = await asyncio.to_thread(seal.host_key, self._key_file)
            await seal.seal(key, folder, NAMES, recipe.facts())
            target = self._root / recipe.key
            await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
            folder.rename(target)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _load(self, recipe: R) -> Template | None:
        """The template on disk if it is whole; another is removed."""
        folder = self._root / recipe.key
        if not folder.exists():
            return None
        key = await asyncio.to_thread(seal.host_key, self._key_file)
        try:
            if await seal.verify(key, folder, NAMES) == recipe.facts():
                return Template(recipe.key, folder)
            reason = "it was made from something else"
        except SnapshotUnusable as error:
            reason = str(error)
        _log.warning("template is unusable and made anew", key=recipe.key, reason=reason)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return None


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
