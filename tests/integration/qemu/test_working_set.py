"""A resume from disk reads ahead what the guest had used."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from midge.drivers.qemu import working_set
from tests.contract.drivers.kit import eventually
from tests.integration.qemu.house import House

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

MIB = 1024 * 1024
UNUSED = (20_000, 30_000)  # first page and number, in the middle of 65,536


@pytest.fixture
async def house(templates: Path) -> AsyncIterator[House]:
    """On a disk: what lies on tmpfs cannot be dropped from the page cache."""
    if shutil.which("fincore") is None:
        pytest.skip("fincore is not installed")
    home = Path(tempfile.mkdtemp(prefix="mi-", dir="/var/tmp"))
    home.chmod(0o711)
    try:
        made = House(home, templates=templates)
        await made.open()
        yield made
        await made.end()
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def test_a_resume_from_disk_reads_ahead_what_was_used(house: House) -> None:
    machine = await house.run()
    await house.sh(machine, "echo here > /dev/shm/mark")
    await house.suspend(machine)
    await house.on_disk(machine)
    saved = house.saved(machine)
    ranges = working_set.recorded(saved)
    used_bytes = sum(count for _, count in ranges) * working_set.PAGE_BYTES
    assert MIB < used_bytes < 256 * MIB
    # Pages that the guest has never used and will not touch now, so that only reading ahead can bring them.
    working_set.record(saved, [UNUSED])
    wanted_bytes = UNUSED[1] * working_set.PAGE_BYTES
    _drop(saved / "memory")
    if _cached_bytes(saved / "memory") >= wanted_bytes:
        pytest.skip("this file system keeps what it is told to drop")
    assert await house.start(machine) == {"resumed": True}
    memory = house.driver._vms.memory_on_disk(house.vm(machine))
    await eventually(lambda: _cached_bytes(memory) >= wanted_bytes, "pages read ahead")
    assert await house.sh(machine, "cat /dev/shm/mark") == "here\n"
    await house.destroy(machine)


def _drop(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cached_bytes(path: Path) -> int:
    said = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(said.stdout)
