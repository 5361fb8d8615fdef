"""A suspend that finds no room fails, says so, and the machine runs on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from midge.drivers.qemu.snapshot import Snapshots
from tests.integration.qemu.house import House

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

DISK_MB = 600


@pytest.fixture
async def small(house: House) -> AsyncIterator[Path]:
    """Writable disks and snapshots on a small disk, which can be filled without the database feeling it."""
    disk = house.home / "disk"
    await house.aclose()
    with mounted(disk):
        for name in ("machines", "layers"):
            shutil.rmtree(house.data / name)
            (disk / name).mkdir(mode=0o711)
            (house.data / name).symlink_to(disk / name)
        await house.open()
        yield disk
        await house.aclose()
    for name in ("machines", "layers"):
        (house.data / name).unlink()
    await house.open()


@contextmanager
def mounted(disk: Path) -> Iterator[None]:
    """A tmpfs of DISK_MB at this new folder."""
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "small", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        disk.rmdir()


async def marked(house: House) -> str:
    """A machine that has nothing left to write to its disk, which would find it full and stand still."""
    machine = await house.run()
    await house.sh(machine, "echo here > /dev/shm/mark; sync")
    return machine


async def test_a_suspend_without_room_is_refused_and_the_machine_runs_on(house: House, small: Path) -> None:
    machine = await marked(house)
    fill(small, leave_bytes=64 * 1024)
    await _fails(house, machine, "suspend needs")
    (small / "filler").unlink()
    await house.suspend(machine)
    assert await house.start(machine) == {"resumed": True}
    assert await house.sh(machine, "cat /dev/shm/mark") == "here\n"
    await house.destroy(machine)


async def test_a_disk_that_is_full_in_the_middle_of_a_suspend(
    house: House, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was room when it was looked for, and then there was none."""
    machine = await marked(house)

    def taken(_: Snapshots, memory: Path) -> None:
        fill(small, leave_bytes=8 * 1024)

    with monkeypatch.context() as patch:
        patch.setattr(Snapshots, "_check_room", taken)
        await _fails(house, machine, "")
    (small / "filler").unlink()
    await house.suspend(machine)
    assert await house.start(machine) == {"resumed": True}
    assert await house.sh(machine, "cat /dev/shm/mark") == "here\n"
    await house.destroy(machine)


async def test_a_guest_is_told_that_its_hosts_disk_is_full(house: House, small: Path) -> None:
    """It runs on, and its next start finds a disk again."""
    machine = await marked(house)
    fill(small, leave_bytes=64 * 1024)
    # What it has written goes to the disk later; whoever asks whether it is there learns from then on that it is not.
    await house.sh(machine, "head -c 1000000 /dev/urandom >/big; sync")
    ask = "echo x | dd of=/small conv=fsync 2>/dev/null; echo $?"
    assert await house.sh(machine, ask) == "1\n"
    assert await house.sh(machine, "cat /dev/shm/mark") == "here\n"
    (small / "filler").unlink()
    await house.stop(machine)
    await house.start(machine)
    assert await house.sh(machine, ask) == "0\n"
    await house.destroy(machine)


async def _fails(house: House, machine: str, message: str) -> None:
    await house.host.suspend(machine)
    await house.reach(machine, "started", "stopped", "failed")
    assert house.state(machine) == "started"
    failed = house.events(machine)[0]
    assert (failed.type, failed.status) == ("suspend", "failed")
    assert message in str(failed.request), failed.request
    assert await house.sh(machine, "cat /dev/shm/mark") == "here\n"
    assert not house.saved(machine).exists()
    assert not house.hot(machine).exists()


def fill(disk: Path, *, leave_bytes: int) -> None:
    """Takes all of a disk's room but this."""
    free = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leave_bytes)
