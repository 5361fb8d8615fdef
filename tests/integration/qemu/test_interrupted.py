"""A start that comes during a suspend wins, wherever the suspend stands, and the machine is the one it was."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.drivers.kit import eventually
from tests.integration.qemu.crashes import SUSPEND_POINTS, arm
from tests.integration.qemu.house import DEADLINE_S, House

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

MARK = "echo here > /mark; echo here > /dev/shm/mark"
LOOK = "cat /mark /dev/shm/mark 2>/dev/null | wc -l"
REACHED = ["suspend: guest is quiet", "suspend: state is saved"]  # no further than this, the guest can run on


@pytest.mark.parametrize("point", SUSPEND_POINTS)
async def test_a_start_at_any_point_of_a_suspend_keeps_the_machine(either: House, point: str) -> None:
    house = either
    before = house.picture()
    machine = await house.run()
    await house.sh(machine, MARK)
    process = house.process(house.vm(machine))
    assert await _interrupted(house, machine, point) == {"resumed": True}
    assert await house.sh(machine, LOOK) == "2\n"
    await house.assert_clock_is_right(machine)
    if house.parks or point in REACHED:
        assert house.process(house.vm(machine)) == process
    told = [(event.type, event.status) for event in house.events(machine)[:3]]
    assert told == [("start", "started"), ("start", "starting"), ("suspend", "suspending")]
    assert not house.saved(machine).exists()
    await house.suspend(machine)
    assert await house.start(machine) == {"resumed": True}
    assert await house.sh(machine, LOOK) == "2\n"
    await house.destroy(machine)
    await house.assert_nothing_left_since(before)


async def _interrupted(house: House, machine: str, point: str) -> dict[str, object]:
    """What the start says that came while the suspend stood at the point."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def stand() -> None:
        reached.set()
        await go.wait()

    disarm = arm(point, stand)
    try:
        await house.host.suspend(machine)
        async with asyncio.timeout(DEADLINE_S):
            await reached.wait()
        runner = house.host._worker.owner(machine)._runner
        suspending = runner.current
        asked = asyncio.create_task(house.start(machine))
        # No more current is what has been told to stop.
        await eventually(lambda: runner.current is not suspending, "the start that interrupts")
    finally:
        go.set()
        disarm()
    return await asked


async def test_a_listener_and_its_commands_survive_a_suspend_that_was_taken_back(either: House) -> None:
    house = either
    counts = "n=0; trap 'n=$((n+1)); echo \"GOT $n\"' USR1; echo READY; while :; do sleep 0.05; done"
    machine = await house.run(counts)
    await house.line(machine, "READY")
    for number in range(1, 6):
        await house.host.suspend(machine)
        await house.start(machine)
        await house.host.signal(machine, 10)
        await house.line(machine, f"GOT {number}")
    assert await house.sh(machine, "cat", stdin=b"there and back") == "there and back"
    await house.destroy(machine)
