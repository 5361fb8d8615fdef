"""Turns at a restore: first come, first served, and nobody keeps one he does not use."""

from __future__ import annotations

import asyncio

import pytest

from midge.drivers.qemu.gate import RestoreGate
from midge.worker.trace import KNOWN, PhaseTrace
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio


class Starts:
    """Starts that hold their turn until they are told to end."""

    def __init__(self, gate: RestoreGate) -> None:
        self.gate = gate
        self.under_way: list[int] = []
        self.ends: dict[int, asyncio.Event] = {}
        self.traces: dict[int, PhaseTrace] = {}

    async def run(self, number: int) -> None:
        self.ends[number], self.traces[number] = asyncio.Event(), PhaseTrace()
        async with self.gate.turn(self.traces[number]):
            self.under_way.append(number)
            await self.ends[number].wait()
            self.under_way.remove(number)


async def idle() -> None:
    """Until every task waits for something that only the test can bring about."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_starts_take_turns_in_the_order_they_came() -> None:
    starts = Starts(RestoreGate(2))
    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(starts.run(number))
        await idle()
        assert starts.under_way == [0, 1]
        starts.ends[1].set()
        await idle()
        assert starts.under_way == [0, 2]
        starts.ends[0].set()
        starts.ends[2].set()
        await idle()
        assert starts.under_way == [3, 4]
        starts.ends[3].set()
        starts.ends[4].set()
    marked = [[name for name, _ in starts.traces[number].phases] for number in range(5)]
    assert marked == [[], [], ["turn"], ["turn"], ["turn"]]
    assert "turn" in KNOWN


async def test_a_start_that_is_given_up_leaves_its_place_to_the_next() -> None:
    starts = Starts(RestoreGate(1))
    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(starts.run(number)))
    await idle()
    tasks[1].cancel()  # waits
    tasks[0].cancel()  # has its turn
    await asyncio.wait(tasks[:2])
    await idle()
    assert starts.under_way == [0, 2]
    starts.under_way.remove(0)
    for number in (2, 3):
        await idle()
        starts.ends[number].set()
    await asyncio.gather(*tasks[2:])
    assert starts.under_way == []


async def test_a_start_that_fails_gives_its_turn_back() -> None:
    gate = RestoreGate(1)
    for _ in range(3):
        with pytest.raises(OSError, match="no space"):
            async with asyncio.timeout(PATIENCE_S), gate.turn(PhaseTrace()):
                raise OSError("no space")
