"""After a restart: find out what became of every machine, and go on where the last worker stopped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from midge.drivers.base import Exited, Lost, Recovered, Running
from midge.errors import chain
from midge.lifecycle.states import TRANSIENT
from midge.machine.spec import ExitStatus
from midge.operations.model import Run
from midge.worker import table
from midge.worker.record import Machine

if TYPE_CHECKING:
    from midge.worker.worker import Worker

RECOVER_CONCURRENCY = 16  # machines whose driver is asked at the same time
LOST_SIGNAL = 9

_log = structlog.get_logger("midge.worker")


async def recover(worker: Worker) -> None:
    """Loads the machines, re-adopts what runs, resumes half-done operations, sweeps what belongs to nobody."""
    parts = worker.parts
    for machine in table.load_machines(parts.database):
        parts.catalog.publish(machine)
    runs = table.load_running(parts.database)
    places = asyncio.Semaphore(RECOVER_CONCURRENCY)
    exits: dict[str, ExitStatus | None] = {}

    async def look(machine: Machine) -> None:
        async with places:
            exits[machine.id] = await _ask_driver(worker, machine)

    async with asyncio.TaskGroup() as tasks:
        for machine in parts.catalog:
            if machine.handle is not None:
                tasks.create_task(look(machine))
    known = {m.id for m in parts.catalog if m.handle or m.snapshot or m.id in runs or m.state != "destroyed"}
    for removed in await parts.driver.sweep(known):
        _log.info("swept", what=removed)
    for machine in list(parts.catalog):
        run = runs.get(machine.id)
        _report_orphan(machine, run)
        if run is None and machine.handle is None:
            continue
        owner = worker.owner(machine.id)
        owner.take_up(run, exits.get(machine.id))
        worker.begin(owner)
    _log.info("recovered", machines=len(parts.catalog), running=len(exits), operations=len(runs))


async def _ask_driver(worker: Worker, machine: Machine) -> ExitStatus | None:
    """None if it runs, else how it ended."""
    assert machine.handle is not None
    driver = worker.parts.driver
    try:
        found: Recovered = Lost(
            reason=f"it ran on the {machine.handle.driver} driver, this host now uses {driver.name}"
        )
        if machine.handle.driver == driver.name:
            found = await driver.recover(machine.handle)
    except Exception as error:
        _log.error("recovery failed", machine=machine.id, error=chain(error))
        found = Lost(reason=chain(error))
    match found:
        case Running():
            return None
        case Exited(status=status):
            return status
        case Lost(reason=reason):
            return ExitStatus(
                exit_code=128 + LOST_SIGNAL,
                signal=LOST_SIGNAL,
                error=f"lost: {reason}",
                exited_at_ns=worker.parts.clock.now_ns(),
            )


def _report_orphan(machine: Machine, run: Run | None) -> None:
    """A machine in motion without an operation cannot be: state and run are written together."""
    if run is None and machine.state in TRANSIENT:
        _log.error("machine is in motion and nothing moves it", machine=machine.id, state=machine.state)
