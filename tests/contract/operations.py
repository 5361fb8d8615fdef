"""What every operation must survive, written once for all drivers.

Each case brings a machine to where the operation begins, runs it under a fault, and then asks the same questions:
is the machine at rest in a legal state, can it still be brought to the operation's goal, and is nothing left behind?
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from midge.drivers.base import Driver
from midge.errors import MidgeError
from midge.machine.config import MachineConfig
from midge.testing.faults import CrashingDatabase, FailingEngine, TwiceEngine
from midge.testing.worker import create_request, running_worker, settled
from midge.worker.host import UpdateMachine
from midge.worker.operations.registry import OPERATIONS
from midge.worker.parts import Images, Settings
from midge.worker.worker import Worker

TIMEOUT_S = 120.0
LEFTOVER_DEADLINE_S = 60.0
LOOK_S = 0.01


class Kit(Protocol):
    """A driver under test and what it leaves on the host."""

    config: dict[str, Any]

    def driver(self) -> Driver:
        """A new driver object on the same state, as after a restart of the worker."""
        ...

    def images(self) -> Images: ...

    def settings(self, root: Path) -> Settings: ...

    def leftovers(self, running: set[str], suspended: set[str], existing: set[str]) -> list[str]:
        """What is there beyond that of `running` and `suspended` machines, and what is prepared of `existing` ones."""
        ...


@dataclass(frozen=True)
class Case:
    """An operation: where it begins, how it is asked for, where it ends. `kind` where that is not its name."""

    name: str
    begin: str
    goal: str
    ask: Callable[[Worker, str], Awaitable[Any]]
    kind: str = ""

    @property
    def operation(self) -> str:
        return self.kind or self.name


async def _request(worker: Worker, machine_id: str, request: Any) -> None:
    accepted = await worker.ask(machine_id, request, {"timeout_s": 2.0} if request != "start" else {})
    if accepted.done is not None:
        await accepted.done


async def _update(worker: Worker, machine_id: str) -> None:
    machine = worker.parts.catalog.get(machine_id)
    raw = msgspec.json.decode(machine.config_json)
    raw["env"] = {**raw.get("env", {}), "UPDATED": "yes"}
    encoded = msgspec.json.encode(raw)
    config = msgspec.json.decode(encoded, type=MachineConfig)
    await worker.update(machine_id, UpdateMachine(config=config, config_json=encoded))
    await settled(worker, machine_id, timeout_s=TIMEOUT_S)


async def _start_during_suspend(worker: Worker, machine_id: str) -> None:
    """The start wins. How far the suspend has come by then is up to the driver."""
    if worker.parts.catalog.get(machine_id).state == "started":
        await worker.ask(machine_id, "suspend", {})
    await _request(worker, machine_id, "start")


CASES = [
    Case("start", "created", "started", lambda w, m: _request(w, m, "start")),
    Case("stop", "started", "stopped", lambda w, m: _request(w, m, "stop")),
    Case("restart", "started", "started", lambda w, m: _request(w, m, "restart")),
    Case("update", "started", "started", _update),
    Case("suspend", "started", "suspended", lambda w, m: _request(w, m, "suspend")),
    Case("resume", "suspended", "started", lambda w, m: _request(w, m, "start"), kind="start"),
    Case("start during suspend", "started", "started", _start_during_suspend, kind="start"),
    Case("destroy", "started", "destroyed", lambda w, m: _request(w, m, "force_destroy")),
]


def parts(kit: Kit, root: Path) -> dict[str, Any]:
    """What a worker of the kit is made of, for `running_worker`."""
    return {"driver": kit.driver(), "images": kit.images(), "settings": kit.settings(root)}


async def begin(worker: Worker, kit: Kit, state: str) -> str:
    """A machine in `state`."""
    view = await worker.create(create_request(skip_launch=True, **kit.config))
    await settled(worker, view.id, "created", timeout_s=TIMEOUT_S)
    if state != "created":
        await _request(worker, view.id, "start")
    if state == "suspended":
        await _request(worker, view.id, "suspend")
    return view.id


async def reach(worker: Worker, case: Case, machine_id: str) -> None:
    """From wherever a fault has left the machine to the goal."""
    state = await settled(worker, machine_id, timeout_s=TIMEOUT_S)
    if state != case.goal and case.goal == "started":
        # An update that failed has left the new version stopped: a start is all that is missing.
        await _request(worker, machine_id, "start")
        state = await settled(worker, machine_id, timeout_s=TIMEOUT_S)
    elif state != case.goal:
        await case.ask(worker, machine_id)
        state = await settled(worker, machine_id, timeout_s=TIMEOUT_S)
    assert state == case.goal


async def check_leftovers(worker: Worker, kit: Kit) -> None:
    """Nothing may be there but what is running; what goes in the background gets a moment."""
    running = {m.id for m in worker.parts.catalog if m.state == "started"}
    suspended = {m.id for m in worker.parts.catalog if m.state == "suspended"}
    existing = {m.id for m in worker.parts.catalog if m.state != "destroyed"}

    def left() -> list[str]:
        return kit.leftovers(running, suspended, existing)

    deadline = asyncio.get_running_loop().time() + LEFTOVER_DEADLINE_S
    # Namespaces go in the background, without a sign that one could wait for.
    while left() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    assert left() == []


async def destroy_all(worker: Worker, kit: Kit) -> None:
    for machine in list(worker.parts.catalog):
        if machine.state != "destroyed":
            await _request(worker, machine.id, "force_destroy")
    await check_leftovers(worker, kit)


async def each_step_twice(root: Path, kit: Kit, case: Case) -> None:
    async with running_worker(root, **parts(kit, root), engine=TwiceEngine) as worker:
        machine_id = await begin(worker, kit, case.begin)
        await case.ask(worker, machine_id)
        assert worker.parts.catalog.get(machine_id).state == case.goal
        await check_leftovers(worker, kit)
        await destroy_all(worker, kit)


async def each_step_failing(root: Path, kit: Kit, case: Case, when: Literal["before", "after"]) -> int:
    """Returns how many steps there were to fail."""
    steps = OPERATIONS[case.operation].operation.names()  # type: ignore[index]  # an OperationKind
    async with running_worker(root, **parts(kit, root), engine=FailingEngine) as worker:
        engine = worker.parts.engine
        assert isinstance(engine, FailingEngine)
        for step in steps:
            machine_id = await begin(worker, kit, case.begin)
            engine.fail, engine.failed = (case.operation, step, when), False
            try:
                await case.ask(worker, machine_id)
            except MidgeError:
                pass
            assert engine.failed, f"step {step} was not reached"
            await settled(worker, machine_id, timeout_s=TIMEOUT_S)
            await reach(worker, case, machine_id)
            await check_leftovers(worker, kit)
            await destroy_all(worker, kit)
    return len(steps)


async def killed_at_each_write(root: Path, kit: Kit, case: Case, when: Literal["before", "after"]) -> int:
    """Kills the worker at its first, second, … write during the operation. Returns how many there were."""
    for n in range(1, 50):
        folder = root / f"{when}-{n}"
        folder.mkdir()
        crashed = False
        machine_id = ""
        async with running_worker(
            folder,
            driver=kit.driver(),
            images=kit.images(),
            settings=kit.settings(folder),
            database=CrashingDatabase,
        ) as worker:
            machine_id = await begin(worker, kit, case.begin)
            database = worker.parts.database
            assert isinstance(database, CrashingDatabase)
            database.crash_at(n, when)
            asked = asyncio.ensure_future(case.ask(worker, machine_id))
            dead = asyncio.ensure_future(database.crashed.wait())
            await asyncio.wait([asked, dead], return_when=asyncio.FIRST_COMPLETED)
            crashed = database.crashed.is_set()
            for task in (asked, dead):
                task.cancel()
            await asyncio.wait([asked, dead])
            if not crashed:
                asked.result()
        async with running_worker(folder, **parts(kit, folder)) as worker:
            await reach(worker, case, machine_id)
            await check_leftovers(worker, kit)
            await destroy_all(worker, kit)
        if not crashed:
            return n - 1
    raise AssertionError("an operation cannot have that many writes")
