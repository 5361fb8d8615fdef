"""Faults on order: a database that stops at the n-th write, an engine that repeats or fails steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw

from midge.errors import Unrecoverable
from midge.operations.engine import Engine, Journal
from midge.operations.model import Run, Step
from midge.store.sqlite import Database

T = TypeVar("T")
C = TypeVar("C")


class CrashingDatabase(Database):
    """After (or before) its n-th write from now nothing goes on: as if the process had been killed there.

    `crashed` is set then; the writer's caller never wakes up.
    """

    def __init__(self, path: Path, migrations: Path) -> None:
        super().__init__(path, migrations)
        self.crashed = asyncio.Event()
        self.writes = 0
        self._at: int | None = None
        self._when: Literal["before", "after"] = "after"

    def crash_at(self, n: int, when: Literal["before", "after"]) -> None:
        self.writes, self._at, self._when = 0, n, when

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        self.writes += 1
        hit = self._at is not None and self.writes >= self._at
        if hit and (self._when == "before" or self.crashed.is_set()):
            await self._stop()
        result = await super().write(job)
        if hit:
            await self._stop()
        return result

    async def _stop(self) -> None:
        self.crashed.set()
        await asyncio.Event().wait()


class TwiceEngine(Engine):
    """Runs every step twice, as happens when the worker dies between the effect and its record."""

    async def _attempt(self, step: Step[C], run: Run, context: C) -> Any:
        await super()._attempt(step, run, context)
        return await super()._attempt(step, run, context)


class FailingEngine(Engine):
    """Fails one step of one kind of operation for good, before or after its effect; once."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self.fail: tuple[str, str, Literal["before", "after"]] | None = None
        self.failed = False

    async def _attempt(self, step: Step[C], run: Run, context: C) -> Any:
        if self.fail is None or self.fail[:2] != (run.kind, step.name):
            return await super()._attempt(step, run, context)
        when, self.fail, self.failed = self.fail[2], None, True
        if when == "after":
            await super()._attempt(step, run, context)
        raise Unrecoverable(f"{step.name} fails as ordered", kind="system")
