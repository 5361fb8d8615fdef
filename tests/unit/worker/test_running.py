"""A worker that cannot start, or ends by an error, says what went wrong and nothing more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from midge.clock import SystemClock
from midge.drivers.mock import MockDriver
from midge.errors import DriverError
from midge.testing.worker import create_request, running_worker, settled
from midge.worker import table
from midge.worker.worker import Worker

pytestmark = pytest.mark.anyio


class Driver(MockDriver):
    """Fails where it is told to."""

    def __init__(self, root: Path, *failing: str) -> None:
        super().__init__(root, SystemClock())
        self._failing = failing

    async def open(self) -> None:
        self._fail_in("open")
        await super().open()

    async def sweep(self, known: set[str]) -> list[str]:
        self._fail_in("sweep")
        return await super().sweep(known)

    def _fail_in(self, verb: str) -> None:
        if verb in self._failing:
            raise DriverError(f"no {verb} today")


@pytest.mark.parametrize("verb", ["open", "sweep"])
async def test_a_worker_that_cannot_start_raises_why(tmp_path: Path, verb: str) -> None:
    with pytest.raises(DriverError, match=f"no {verb} today"):
        async with running_worker(tmp_path, driver=Driver(tmp_path / "mock", verb)):
            raise AssertionError("it does not get this far")


async def test_a_worker_that_ends_by_an_error_ends_what_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(self: Worker) -> None:
        await asyncio.sleep(0)
        raise DriverError("a bug")

    monkeypatch.setattr(Worker, "_forget_destroyed", fails)
    with pytest.raises(DriverError, match="a bug"):
        async with running_worker(tmp_path):
            await asyncio.sleep(30)


async def test_events_and_operations_are_kept_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "EVENTS_KEPT", 5)
    monkeypatch.setattr(table, "RUNS_KEPT", 3)
    async with running_worker(tmp_path) as worker:
        view = await worker.create(create_request(skip_launch=True))
        await settled(worker, view.id, "created")
        for _ in range(10):
            for verb in ("start", "stop"):
                done: Any = (await worker.ask(view.id, verb, {})).done
                await done
        database = worker.parts.database
        assert 5 <= len(table.read_events(database, view.id, 100)) < 5 + 2 * table.PRUNE_EVERY
        assert 3 <= len(table.read_runs(database, view.id, 100)) < 3 + table.PRUNE_EVERY
