"""Again and again: what is in memory and on disk stays whole, and the host stays clean."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from dataclasses import fields

import pytest

from midge.sys.leaks import HostState
from tests.contract.drivers.kit import eventually
from tests.integration.qemu.house import House, elapsed_ms, figure
from tests.rounds import rounds

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.vm,
    pytest.mark.root,
    pytest.mark.timeout(1800),
]

# Usual and full numbers of rounds.
SUSPENDS = (10, 100)
STARTS = (15, 200)
BUFFER_BYTES = 64 * 1024 * 1024
BLOCK_BYTES = 4096
FULL_CHECK_EVERY = 5  # rounds from one checksum of everything to the next: emulation is slow at that
BUFFER = "/dev/shm/buffer"


async def test_memory_and_files_are_intact_over_many_suspends(either: House) -> None:
    house = either
    machine = await house.run()
    # Made inside, fetched once; from then on the host knows what must be in it.
    await house.sh(machine, f"dd if=/dev/urandom of={BUFFER} bs=1M count=64 2>/dev/null; mkdir /kept")
    expected = bytearray(await house.sh_bytes(machine, f"cat {BUFFER}"))
    assert len(expected) == BUFFER_BYTES
    files: dict[str, str] = {}
    suspend_ms, resume_ms = [], []
    for number in range(1, rounds(*SUSPENDS) + 1):
        await _change(house, machine, number, expected, files)
        at = time.perf_counter()
        await house.suspend(machine)
        suspend_ms.append(elapsed_ms(at))
        if number % 3 == 0:  # some from the disk, most from memory
            await house.on_disk(machine)
        at = time.perf_counter()
        assert await house.start(machine) == {"resumed": True}
        await house.sh(machine, "true")
        resume_ms.append(elapsed_ms(at))
        await _check_files(house, machine, files)
        if number % FULL_CHECK_EVERY == 0:
            await _check_buffer(house, machine, expected)
    await _check_buffer(house, machine, expected)
    assert (
        "error" not in (await house.sh(machine, "dmesg | grep -i 'ext4\\|erofs\\|corrupt' || true")).lower()
    )
    figure("suspend, in rounds", suspend_ms)
    figure("resume to exec, in rounds", resume_ms)
    await house.destroy(machine)


async def _change(
    house: House, machine: str, number: int, expected: bytearray, files: dict[str, str]
) -> None:
    """One block of the buffer, one new file, and one file that is there already."""
    block = random.randbytes(BLOCK_BYTES)
    at = random.randrange(BUFFER_BYTES // BLOCK_BYTES)
    await house.sh(
        machine, f"dd of={BUFFER} bs={BLOCK_BYTES} seek={at} conv=notrunc 2>/dev/null", stdin=block
    )
    expected[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES] = block
    files[f"/kept/{number}"] = f"round {number}"
    files["/kept/latest"] = f"{number}"
    script = f"echo 'round {number}' > /kept/{number}; echo {number} > /kept/latest"
    await house.sh(machine, script + ("; sync; echo 3 > /proc/sys/vm/drop_caches" if number % 4 == 0 else ""))


async def _check_files(house: House, machine: str, files: dict[str, str]) -> None:
    output = await house.sh(machine, "cd /kept; for f in *; do echo /kept/$f=$(cat $f); done")
    assert dict(line.split("=") for line in output.splitlines()) == files


async def _check_buffer(house: House, machine: str, expected: bytearray) -> None:
    digest = (await house.sh(machine, f"md5sum {BUFFER}")).split()[0]
    assert digest == hashlib.md5(expected, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("warm", [False, True])
async def test_starts_and_stops_leave_nothing_behind(house: House, warm_house: House, warm: bool) -> None:
    here = warm_house if warm else house
    machine = await here.create()
    if warm:
        await here.warm()
    await here.start(machine)
    await here.stop(machine)
    await _settled(here, warm)
    before = here.picture()
    start_ms = []
    for number in range(rounds(*STARTS)):
        if warm and number % 2:
            await here.warm()
        at = time.perf_counter()
        await here.start(machine)
        if not warm or "slot" in here.phases(machine):
            start_ms.append(elapsed_ms(at))
        assert list(here.phases(machine))[-3:] == ["handshake", "mounts", "exec"]
        await here.stop(machine)
    figure("start, warm" if warm else "start, from template", start_ms)
    if not warm:
        await here.assert_nothing_left_since(before)
    await _settled(here, warm)
    # Something may be under way at any moment: a thread that reads a file, say.
    await eventually(lambda: not _more(before, here.picture()), lambda: f"{_more(before, here.picture())}")
    await here.destroy(machine)


def _more(before: HostState, after: HostState) -> list[tuple[str, list[str]]]:
    """Kinds of things there are more of than before, and which are new."""
    pairs = [(kind.name, getattr(before, kind.name), getattr(after, kind.name)) for kind in fields(HostState)]
    return [(kind, sorted(now - was)) for kind, was, now in pairs if len(now) > len(was)]


async def _settled(house: House, warm: bool) -> None:
    """Until the pools are as full as they get."""
    if warm:
        await house.warm()
    await eventually(house.slots_are_made, "network slots")
    last, same = -1, 0
    while same < 5:
        await asyncio.sleep(0.1)
        picture = house.picture()
        count = len(picture.netns) + len(picture.process) + len(picture.file)
        same, last = (same + 1, last) if count == last else (0, count)
