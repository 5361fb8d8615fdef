"""A start that comes during a suspend wins; a suspend that fails leaves a machine that runs, or says that none does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from midge.drivers.base import Handle, Trace
from midge.drivers.mock import MockDriver
from midge.errors import DriverError, SnapshotUnusable, Unavailable
from midge.lifecycle.admission import Capacity, Facts, admit
from midge.lifecycle.table import Next
from midge.machine.spec import MachineSpec
from midge.testing.worker import create_request, mock_order, running_worker, settled
from midge.worker import table
from midge.worker.worker import Worker

pytestmark = pytest.mark.anyio

LONG_MS = 60_000  # a suspend that is never waited for


class Saved(MockDriver):
    """A suspend that has saved everything and is about to return when it is cancelled."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.saved = asyncio.Event()

    async def suspend(self, spec: MachineSpec, handle: Handle) -> dict[str, Any]:
        record = await super().suspend(spec, handle)
        await self.cleanup(spec.machine_id, handle)
        self.saved.set()
        await asyncio.Event().wait()
        return record


class Broken(MockDriver):
    """A suspend that fails and leaves nothing that could go on."""

    async def suspend(self, spec: MachineSpec, handle: Handle) -> dict[str, Any]:
        raise DriverError("the disk is on fire")

    async def go_on(self, spec: MachineSpec, handle: Handle, trace: Trace) -> Handle:
        raise SnapshotUnusable("nothing answers")


async def started(worker: Worker, **config: Any) -> str:
    view = await worker.create(create_request(**config))
    await settled(worker, view.id, "started")
    return view.id


def told(worker: Worker, machine_id: str) -> list[tuple[str, str]]:
    """(type, status) of all but the first three events, oldest first."""
    found = table.read_events(worker.parts.database, machine_id, 50)
    return [(event.type, event.status) for event in reversed(found)][3:]


async def interrupted(worker: Worker, machine_id: str) -> None:
    suspended = await worker.ask(machine_id, "suspend", {})
    if isinstance(worker.parts.driver, Saved):
        await worker.parts.driver.saved.wait()
    accepted = await worker.ask(machine_id, "start", {})
    assert accepted.previous == "suspending"
    assert accepted.done is not None
    await accepted.done
    assert suspended.done is not None
    with pytest.raises(Unavailable, match="suspend was superseded by start"):
        await suspended.done


async def test_a_start_ends_the_suspend_and_keeps_the_run(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await started(worker, metadata=mock_order(suspend_ms=LONG_MS))
        handle = worker.parts.catalog.get(machine_id).handle
        await interrupted(worker, machine_id)
        machine = worker.parts.catalog.get(machine_id)
        assert (machine.state, machine.handle, machine.snapshot) == ("started", handle, None)
        assert told(worker, machine_id) == [
            ("suspend", "suspending"),
            ("start", "starting"),
            ("start", "started"),
        ]
        newest = table.read_events(worker.parts.database, machine_id, 1)[0]
        assert newest.request == {"resumed": True}
        # And its exit is noticed as ever.
        await worker.parts.driver.kill(machine.handle)  # type: ignore[arg-type]  # it has one
        assert await settled(worker, machine_id, "stopped", "restarting")


async def test_a_start_that_comes_too_late_resumes_at_once(tmp_path: Path) -> None:
    driver = Saved(tmp_path / "mock")
    async with running_worker(tmp_path, driver=driver) as worker:
        machine_id = await started(worker)
        handle = worker.parts.catalog.get(machine_id).handle
        await interrupted(worker, machine_id)
        machine = worker.parts.catalog.get(machine_id)
        assert machine.state == "started"
        assert machine.handle != handle, "it is another run, from a snapshot"
        assert driver.host.leftovers()["snapshots"] == set()


async def test_a_stop_waits_for_the_suspend(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await started(worker, metadata=mock_order(suspend_ms=20))
        await worker.ask(machine_id, "suspend", {})
        accepted = await worker.ask(machine_id, "stop", {})
        assert accepted.previous == "suspended"
        assert accepted.done is not None
        await accepted.done


async def test_a_suspend_that_fails_and_leaves_nothing_has_failed(tmp_path: Path) -> None:
    async with running_worker(tmp_path, driver=Broken(tmp_path / "mock")) as worker:
        machine_id = await started(worker)
        accepted = await worker.ask(machine_id, "suspend", {})
        assert accepted.done is not None
        with pytest.raises(DriverError, match="on fire"):
            await accepted.done
        machine = worker.parts.catalog.get(machine_id)
        assert (machine.state, machine.handle) == ("failed", None)
        assert worker.parts.driver.host.leftovers()["run"] == set()  # type: ignore[attr-defined]


def test_memory_of_a_machine_that_is_being_suspended_is_its_own_still() -> None:
    full = Capacity(free_mb=0)
    facts = Facts("m1", "suspending", "start", now_ns=0, memory_mb=256, capacity=full)
    assert admit(facts) == Next("starting", run="start", supersede=True)
