"""Time in a fork is the host's, and the time it stood still is not counted as time it ran."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from tests.integration.qemu.house import House, elapsed_ms, figure

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root]

TOLERANCE_S = 2.0
ASLEEP_S = 3.0  # older than the tolerance, so that a clock that was not set would be seen
STALE_MAX_S = 1.5  # from the restore until the guest is told the time, on a loaded host under emulation
NOW = 'echo "NOW $(date +%s)"'


async def test_the_first_instruction_of_a_start_knows_the_time(house: House) -> None:
    machine = await house.create(f"{NOW}; {'exec sleep 1000000'}")
    # The template was saved before: its clock is at least as old as this.
    await asyncio.sleep(ASLEEP_S)
    before = time.time()
    await house.start(machine)
    said = float(await house.line(machine, "NOW "))
    assert before - TOLERANCE_S < said < time.time() + TOLERANCE_S
    await house.destroy(machine)


async def test_a_resumed_machine_knows_the_time_and_not_that_it_slept(house: House) -> None:
    machine = await house.run()
    wall, uptime = await _clocks(house, machine)
    seen = time.monotonic()
    await house.suspend(machine)
    suspended = time.monotonic()
    await asyncio.sleep(ASLEEP_S)
    begun = time.perf_counter()
    assert (await house.start(machine))["resumed"]
    later_wall, later_uptime = await _clocks(house, machine)
    figure("resume to first exec", [elapsed_ms(begun)])
    awake_s = time.monotonic() - seen - (time.monotonic() - suspended) + elapsed_ms(begun) / 1000
    assert abs(later_wall - time.time()) < TOLERANCE_S
    assert later_wall >= wall + ASLEEP_S - 1.0
    assert later_uptime >= uptime
    assert later_uptime - uptime < awake_s + 1.0
    await house.destroy(machine)


async def test_what_runs_on_before_the_guest_is_told_the_time_is_short(house: House) -> None:
    """Processes go on from the restore; until RESUME arrives they read the clock as it was. Measured here."""
    machine = await house.run(
        "while :; do read up rest < /proc/uptime; echo $(date +%s) $up >> /dev/shm/clock; done"
    )
    await asyncio.sleep(0.5)
    await house.suspend(machine)
    suspended = time.time()
    await asyncio.sleep(ASLEEP_S)
    await house.start(machine)
    await asyncio.sleep(0.5)
    lines = (await house.sh(machine, "cat /dev/shm/clock")).splitlines()
    samples = [(int(line.split()[0]), float(line.split()[1])) for line in lines if len(line.split()) == 2]
    walls = [wall for wall, _ in samples]
    uptimes = [uptime for _, uptime in samples]
    assert uptimes == sorted(uptimes)
    # The clock steps once: forward, by the time that was slept, and soon.
    steps = [(earlier, later - earlier) for earlier, later in pairwise(walls) if later != earlier]
    assert all(step > 0 for _, step in steps)
    [stale] = [earlier for earlier, step in steps if step >= ASLEEP_S - 1]
    assert stale < suspended + STALE_MAX_S
    await house.destroy(machine)


async def _clocks(house: House, machine: str) -> tuple[float, float]:
    wall, uptime, *_ = (await house.sh(machine, "date +%s; cat /proc/uptime")).split()
    return float(wall), float(uptime)
