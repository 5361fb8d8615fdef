"""Time in a fork is the host's, and the time it stood still is not counted as time it ran."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from midge.guest import messages as m
from midge.guest.channel import GuestChannel
from tests.integration.qemu.house import CLOCK_TOLERANCE_S, House, elapsed_ms, figure

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

ASLEEP_S = 3.0  # older than the tolerance, so that a clock that was not set would be seen
UNTOLD_S = 1.0  # from the restore until the guest is told the time
NOW = 'echo "NOW $(date +%s)"'


async def test_the_first_instruction_of_a_start_knows_the_time(house: House) -> None:
    machine = await house.create(f"{NOW}; {'exec sleep 1000000'}")
    # The template was saved before: its clock is at least as old as this.
    await asyncio.sleep(ASLEEP_S)
    before = time.time()
    await house.start(machine)
    said = float(await house.line(machine, "NOW "))
    assert before - CLOCK_TOLERANCE_S < said < time.time() + CLOCK_TOLERANCE_S
    await house.destroy(machine)


async def test_a_resumed_machine_knows_the_time_and_not_that_it_slept(either: House) -> None:
    house = either
    machine = await house.run()
    asked = time.monotonic()
    wall, uptime = await _clocks(house, machine)
    await house.suspend(machine)
    suspended = time.monotonic()
    await asyncio.sleep(ASLEEP_S)
    begun = time.perf_counter()
    assert (await house.start(machine))["resumed"]
    later_wall, later_uptime = await _clocks(house, machine)
    figure("resume to first exec", [elapsed_ms(begun)])
    awake_s = suspended - asked + elapsed_ms(begun) / 1000
    await house.assert_clock_is_right(machine)
    assert later_wall >= wall + ASLEEP_S - 1.0
    assert later_uptime >= uptime
    assert later_uptime - uptime < awake_s + 1.0
    await house.destroy(machine)


async def test_no_instruction_of_a_user_runs_with_the_old_clock(
    either: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that note the time all the while stand still from the save until the clock is right.

    The host takes its time before it says what time it is: whatever ran on meanwhile would be in the notes.
    """
    house, resume = either, GuestChannel.resume

    async def resume_late(channel: GuestChannel, message: m.Resume) -> None:
        await asyncio.sleep(UNTOLD_S)
        await resume(channel, msgspec.structs.replace(message, wall_clock_ns=time.time_ns()))

    monkeypatch.setattr(GuestChannel, "resume", resume_late)
    # When the clock was read: not before, not after.
    look = "read before rest </proc/uptime; now=$(date +%s); read after rest </proc/uptime"
    machine = await house.run(f"while :; do {look}; echo $now $before $after >>/dev/shm/clock; done")
    await house.sh(machine, "until [ -s /dev/shm/clock ]; do sleep 0.05; done")
    await house.suspend(machine)
    suspended = time.time()
    await asyncio.sleep(ASLEEP_S)
    await house.start(machine)
    right = int(suspended + ASLEEP_S)
    turns = f"while [ $(tail -n 1 /dev/shm/clock | cut -d' ' -f1) -lt {right} ]; do sleep 0.1; done"
    lines = (await house.sh(machine, f"{turns}; cat /dev/shm/clock")).splitlines()
    samples = [tuple(map(float, line.split())) for line in lines if len(line.split()) == 3]
    uptimes = [before for _, before, _ in samples]
    assert uptimes == sorted(uptimes)
    old = [before for now, before, _ in samples if now < right]
    new = [after for now, _, after in samples if now >= right]
    # The clock steps once, by the time that was slept; and just there nobody looked for as long as nothing was said.
    assert min(new) - max(old) >= UNTOLD_S * 0.9
    assert max(now for now, *_ in samples if now < right) <= suspended + 1
    await house.destroy(machine)


async def _clocks(house: House, machine: str) -> tuple[float, float]:
    wall, uptime, *_ = (await house.sh(machine, "date +%s; cat /proc/uptime")).split()
    return float(wall), float(uptime)
