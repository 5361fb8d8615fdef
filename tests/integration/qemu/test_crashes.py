"""Whatever dies in the middle of a suspend or a resume: the machine's events explain where it is, nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable

import pytest

from midge.drivers.shim_files import read_state
from tests.contract.drivers.kit import eventually
from tests.integration.qemu.crashes import POINTS, arm
from tests.integration.qemu.house import DEADLINE_S, House

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

MARK = "echo here > /mark; echo here > /dev/shm/mark"
CANCEL_S = 0.3  # until a cancellation has reached what can be cancelled
LOOK = "cat /mark /dev/shm/mark 2>/dev/null | wc -l"


@pytest.mark.parametrize("how", ["cancelled", "killed"])
@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_that_ends_in_the_middle(either: House, point: str, how: str) -> None:
    house = either
    if point.startswith("unpark") and not house.parks:
        pytest.skip("nothing is parked in this house")
    before = house.picture()
    machine = await house.run()
    await house.sh(machine, MARK)
    if point.startswith("resume"):
        await house.suspend(machine)
        await house.driver._parked.gone(machine)
    await (_cancelled if how == "cancelled" else _killed)(house, machine, point)
    # Too late to run on and too early to be saved: the one point that costs the machine its memory.
    lost = point == "suspend: files are taken" and how == "killed" and not house.parks
    state = await house.reach(
        machine, *(["stopped"] if lost else ["started", "suspended", "stopped", "failed"])
    )
    await _explained(house, machine, state)
    await house.destroy(machine)
    await house.assert_nothing_left_since(before)


async def _cancelled(house: House, machine: str, point: str) -> None:
    """The worker is shut down while the step stands at the point; what must not be left half done then goes on."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def stand() -> None:
        reached.set()
        await go.wait()

    if point.startswith("unpark"):
        await house.suspend(machine)
    disarm = arm(point, stand)
    try:
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(_ask(house, machine, point))
            async with asyncio.timeout(DEADLINE_S):
                await reached.wait()
            asked.cancel()
        closing = asyncio.create_task(house.aclose())
        await asyncio.wait([closing], timeout=CANCEL_S)
        go.set()
        await closing
    finally:
        disarm()
    await house.open()


async def _ask(house: House, machine: str, point: str) -> None:
    if point.startswith("suspend"):
        await house.host.suspend(machine)
    await (asyncio.Event().wait() if point.startswith("suspend") else house.host.start(machine))


async def _killed(house: House, machine: str, point: str) -> None:
    """Another process is the worker for a moment, and ends by SIGKILL at the point."""
    await house.aclose()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.qemu.crashes"),
        *(str(house.home), machine, point, str(house.settings.parked.vms_max)),
    )
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait() == -signal.SIGKILL
    await house.open()


async def _explained(house: House, machine: str, state: str) -> None:
    """The machine does what its state and events say, and has lost nothing they do not tell of."""
    if state == "started" and "note" in house.start_event(machine):
        assert house.start_event(machine)["note"].startswith("cold start: ")
        assert await house.sh(machine, LOOK) == "0\n"
        return
    if state in ("stopped", "failed"):
        latest = house.events(machine)[0]
        assert latest.type == "exit" or latest.status == "failed", latest
        assert latest.request, latest
        await house.start(machine)
        assert await house.sh(machine, LOOK) == "0\n"
        return
    if state == "suspended":
        assert await house.start(machine) == {"resumed": True}
    assert await house.sh(machine, LOOK) == "2\n"
    await house.assert_clock_is_right(machine)
    await eventually(lambda: not house.saved(machine).exists(), "no snapshot of a machine that runs")
    # And it can be suspended and resumed like any other.
    await house.suspend(machine)
    assert await house.start(machine) == {"resumed": True}
    assert await house.sh(machine, LOOK) == "2\n"


@pytest.mark.parametrize("whom", ["shim", "QEMU"])
async def test_a_vmm_that_dies_during_a_suspend(either: House, whom: str) -> None:
    house = either
    before = house.picture()
    machine = await house.run()
    await _kill_at(
        house, machine, "suspend: guest is quiet", whom, house.vm(machine), house.host.suspend(machine)
    )
    assert await house.reach(machine, "stopped", "failed") == "stopped"
    latest = house.events(machine)[0]
    assert latest.type == "exit"
    assert latest.request["exit_event"]["error"]
    assert any(e.type == "suspend" and e.status == "failed" for e in house.events(machine))
    assert await house.start(machine) == {"resumed": False}
    await house.destroy(machine)
    await house.assert_nothing_left_since(before)


@pytest.mark.parametrize("whom", ["shim", "QEMU"])
async def test_a_vmm_that_dies_during_a_resume_means_a_cold_start(house: House, whom: str) -> None:
    before = house.picture()
    machine = await house.run()
    await house.sh(machine, MARK)
    await house.suspend(machine)
    await _kill_at(house, machine, "resume: linked", whom, "", house.host.start(machine))
    await house.reach(machine, "started")
    said = house.start_event(machine)
    assert said["resumed"] is False
    assert said["note"].startswith("cold start: ")
    assert await house.sh(machine, LOOK) == "0\n"
    await house.destroy(machine)
    await house.assert_nothing_left_since(before)


@pytest.mark.parametrize("whom", ["shim", "QEMU"])
async def test_a_warm_slot_that_died_does_not_fail_the_start(warm_house: House, whom: str) -> None:
    house = warm_house
    machine = await house.create()
    await house.warm()
    for slot in house.slots():
        _kill(house, slot, whom)
    assert await house.start(machine) == {"resumed": False}
    assert await house.sh(machine, "echo on") == "on\n"
    await house.destroy(machine)


@pytest.mark.parametrize("whom", ["shim", "QEMU"])
async def test_a_suspended_machine_survives_its_worker(either: House, whom: str) -> None:
    """What is suspended needs no process at all."""
    house = either
    machine = await house.run()
    await house.sh(machine, MARK)
    await house.suspend(machine)
    await house.reopen()
    assert await house.start(machine) == {"resumed": True}
    assert await house.sh(machine, LOOK) == "2\n"
    _kill(house, house.vm(machine), whom)
    assert await house.reach(machine, "stopped") == "stopped"
    assert await house.start(machine) == {"resumed": False}
    await house.destroy(machine)


async def _kill_at(
    house: House, machine: str, point: str, whom: str, vm: str, asking: Awaitable[object]
) -> None:
    """Lets an operation run and kills a process of its VM as it passes the point, once; there, the VM is dead."""
    done = asyncio.Event()

    async def act() -> None:
        if not done.is_set():
            done.set()
            name = vm or house.vm(machine)
            record = read_state(house.home / "run" / "m" / name).record
            assert record is not None
            _kill(house, name, whom)
            # QEMU ends with its shim, but not at the same moment: until then, it could still save its guest.
            await eventually(lambda: not record.child.is_alive(), "end of the VM")

    disarm = arm(point, act)
    try:
        await asking
        await asyncio.wait_for(done.wait(), DEADLINE_S)
        await house.reach(machine, "started", "stopped", "failed", "suspended")
    finally:
        disarm()


def _kill(house: House, vm: str, whom: str) -> None:
    shim, qemu = house.process(vm)
    os.kill(shim if whom == "shim" else qemu, signal.SIGKILL)
