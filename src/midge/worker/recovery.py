"""After a restart: find out what became of every machine, and go on where the last worker stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

import structlog

from midge.drivers.base import Exited, Handle, Lost, Recovered, Running
from midge.errors import MidgeError, chain
from midge.lifecycle.states import TRANSIENT
from midge.machine.spec import ExitStatus
from midge.operations.engine import error_as_data
from midge.operations.model import Run
from midge.worker import table
from midge.worker.change import Change, commit
from midge.worker.events import event, failure
from midge.worker.operations import create, stop
from midge.worker.operations.finish import Follow
from midge.worker.operations.journal import Input
from midge.worker.owner import Owner
from midge.worker.parts import Parts
from midge.worker.record import Machine, changed

RECOVER_CONCURRENCY = 16  # machines whose driver is asked at the same time
LOST_SIGNAL = 9

_log = structlog.get_logger("midge.worker")


class Owners(Protocol):
    """The owner tasks of the host's machines, as the worker keeps them."""

    def owner(self, machine_id: str) -> Owner: ...

    def begin(self, owner: Owner) -> None: ...


async def recover(parts: Parts, owners: Owners) -> None:
    """Loads the machines, re-adopts what runs, resumes half-done operations, sweeps what belongs to nobody.

    Raises:
        HandleUnknown: another version of Midge started a machine. Nothing has been touched.
    """
    for machine in table.load_machines(parts.database):
        parts.catalog.publish(machine)
    runs, unreadable = table.load_running(parts.database)
    check_handles(parts.catalog, runs.values(), unreadable)
    for row in unreadable:
        await _end_unreadable(parts, row)
    last = table.load_last(parts.database)
    places = asyncio.Semaphore(RECOVER_CONCURRENCY)
    exits: dict[str, ExitStatus | None] = {}

    async def look(machine: Machine) -> None:
        async with places:
            exits[machine.id] = await _ask_driver(parts, machine)

    async with asyncio.TaskGroup() as tasks:
        for machine in parts.catalog:
            if machine.handle is not None:
                tasks.create_task(look(machine))
    known = {m.id for m in parts.catalog if m.handle or m.snapshot or m.id in runs or m.state != "destroyed"}
    for removed in await parts.driver.sweep(known):
        _log.info("swept", what=removed)
    for machine in list(parts.catalog):
        run = runs.get(machine.id)
        follow = missed_follow(machine, last.get(machine.id)) if run is None else None
        orphaned = run is None and machine.state in TRANSIENT
        if run is None and machine.handle is None and not (follow or orphaned):
            continue
        owner = owners.owner(machine.id)
        if orphaned:
            _take_back(owner, machine)
        else:
            owner.take_up(run, exits.get(machine.id))
        if follow is not None:
            owner.post_internal(*follow)
        owners.begin(owner)
    _log.info("recovered", machines=len(parts.catalog), running=len(exits), operations=len(runs))


async def _end_unreadable(parts: Parts, row: table.Unreadable) -> None:
    """Nobody knows how far it came: it has failed, and so has its machine, which can then be stopped or destroyed.

    What the driver has of the machine stays. Where this cannot be written, the next start of the worker tries again.
    """
    if row.subject not in parts.catalog:
        return
    now_ns = parts.clock.now_ns()
    error = MidgeError(
        f"operation {row.id} ({row.kind}) cannot be read: {row.reason}",
        hint="the journal is damaged; look at the machine, then stop, start or destroy it",
    )
    run = Run(
        id=row.id,
        subject=row.subject,
        kind=row.kind,
        input=Input(),
        state="failed",
        error=error_as_data(error),
        started_at_ns=row.started_at_ns,
        finished_at_ns=now_ns,
    )
    machine = changed(parts.catalog.get(row.subject), "failed", now_ns)
    told = event(row.kind, "failed", "flyd", now_ns, failure(error))
    try:
        await commit(parts, Change(machine, events=[told], runs=[run]))
    except MidgeError as second:
        _log.error("end of an operation not recorded", machine=row.subject, error=chain(second))


def check_handles(
    machines: Iterable[Machine], runs: Iterable[Run], unreadable: Iterable[table.Unreadable] = ()
) -> None:
    """Looks at all handles before anything is done with one: what cannot be read is neither lost nor a stray.

    Raises: HandleUnknown.
    """
    for machine in machines:
        if machine.handle is not None:
            machine.handle.check()
    for run in runs:
        if (launched := run.outputs.get("launch")) is not None:
            launched.handle.check()
    for row in unreadable:
        if row.handle_version is not None:
            Handle(driver="", machine_id=row.subject, start_id="", version=row.handle_version).check()


async def _ask_driver(parts: Parts, machine: Machine) -> ExitStatus | None:
    """None if it runs, else how it ended."""
    assert machine.handle is not None
    driver = parts.driver
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
                exited_at_ns=parts.clock.now_ns(),
            )


def missed_follow(machine: Machine, last: Run | None) -> Follow | None:
    """What should have followed from the last operation, if the worker died right after its end. Pure."""
    if last is None or last.state != "done":
        return None
    if last.kind == "create" and machine.state == "created":
        return create.follow(last)
    if last.kind == "stop" and machine.state == "stopped":
        return stop.follow(machine)
    return None


def _take_back(owner: Owner, machine: Machine) -> None:
    """A create that failed, whose removal had not begun. No other machine can be in motion without a run: the state
    and the run are written together.
    """
    if machine.state == "launch_failed":
        owner.post_create_failed()
    else:
        _log.error("machine is in motion and nothing moves it", machine=machine.id, state=machine.state)
