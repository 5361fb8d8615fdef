"""What is random in a fork is random in this fork alone."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.integration.qemu.house import House, elapsed_ms, figure
from tests.rounds import rounds

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(900)]

STARTS = (15, 50)  # usual and full number of rounds
RESUMES = 5
READ = (
    "read u < /proc/sys/kernel/random/uuid; "
    "r=$(dd if=/dev/urandom bs=32 count=1 2>/dev/null | od -An -tx1 | tr -d ' \\n'); "
    'echo "RANDOM $u $r"'
)


async def test_no_two_starts_of_a_template_share_a_random_number(warm_house: House) -> None:
    house = warm_house
    machine = await house.create(READ)
    seen: list[str] = []
    warm_ms, cold_ms = [], []
    for number in range(rounds(*STARTS)):
        if number % 5:
            await house.warm()
        begun = time.perf_counter()
        await house.host.start(machine)
        took = elapsed_ms(begun)
        await house.reach(machine, "stopped")
        (warm_ms if "slot" in house.phases(machine) else cold_ms).append(took)
        words = [line for line in house.said(machine) if line.startswith("RANDOM ")]
        assert len(words) == number + 1
        seen.append(words[-1])
    assert warm_ms, "a warm slot was taken at least once"
    figure("warm start", warm_ms)
    if cold_ms:
        figure("start from template", cold_ms)
    uuids = {line.split()[1] for line in seen}
    numbers = {line.split()[2] for line in seen}
    assert len(uuids) == len(numbers) == len(seen)
    assert all(len(number) == 64 for number in numbers)


async def test_machines_forked_at_the_same_moment_differ(warm_house: House) -> None:
    house = warm_house
    machines = [await house.create(READ) for _ in range(4)]
    await asyncio.gather(*(house.host.start(machine) for machine in machines))
    lines = [await house.line(machine, "RANDOM ") for machine in machines]
    assert len({word for line in lines for word in line.split()}) == 2 * len(machines)
    for machine in machines:
        await house.destroy(machine)


async def test_no_two_resumes_share_a_random_number(either: House) -> None:
    house = either
    machine = await house.run()
    seen = set()
    for _ in range(RESUMES):
        await house.suspend(machine)
        assert (await house.start(machine))["resumed"]
        seen |= set((await house.sh(machine, READ)).split()[1:])
    assert len(seen) == 2 * RESUMES
    await house.destroy(machine)
