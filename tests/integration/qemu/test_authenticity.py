"""What is restored is what this host saved. Anything else is a cold start that says why, and never a crash."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from midge.drivers.qemu import snapshot_disk
from midge.drivers.qemu.snapshot import Snapshots
from tests.integration.qemu.conftest import opened
from tests.integration.qemu.house import House

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]


def flip(path: Path) -> None:
    """Another byte in the middle of the file's first data, size and name as before."""
    with path.open("r+b") as file:
        at = os.lseek(file.fileno(), 0, os.SEEK_DATA) + 2048
        byte = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def copy_sparse(folder: Path, dest: Path) -> None:
    """Files with their holes: gigabytes of zeros would take the host's memory from everybody."""
    subprocess.run(["cp", "--archive", "--sparse=always", folder, dest], check=True)


Damage = Callable[[House, str], None]
DAMAGES: dict[str, Damage] = {
    "state changed": lambda house, machine: flip(house.saved(machine) / "state"),
    "state cut": lambda house, machine: cut(house.saved(machine) / "state"),
    "state gone": lambda house, machine: (house.saved(machine) / "state").unlink(),
    "memory changed": lambda house, machine: flip(house.saved(machine) / "memory"),
    "memory cut": lambda house, machine: cut(house.saved(machine) / "memory"),
    "memory gone": lambda house, machine: (house.saved(machine) / "memory").unlink(),
    "layer changed": lambda house, machine: flip(house.saved(machine) / "layer"),
    "layer cut": lambda house, machine: cut(house.saved(machine) / "layer"),
    "layer gone": lambda house, machine: (house.saved(machine) / "layer").unlink(),
    "seal gone": lambda house, machine: (house.saved(machine) / "seal").unlink(),
    "seal changed": lambda house, machine: (house.saved(machine) / "seal").write_bytes(b"{}\n00\n"),
    "all gone": lambda house, machine: shutil.rmtree(house.saved(machine)),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_snapshot_means_a_cold_start_with_a_note(house: House, damage: str) -> None:
    before = house.picture()
    machine = await house.run()
    await house.sh(machine, "echo here > /dev/shm/mark")
    await house.suspend(machine)
    await house.on_disk(machine)
    DAMAGES[damage](house, machine)
    await _assert_cold(house, machine)
    await house.destroy(machine)
    await house.assert_nothing_left_since(before)


async def test_memory_changed_before_it_is_on_disk_is_noticed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, take = asyncio.Event(), snapshot_disk.take

    async def take_late(snapshots: Snapshots, machine_id: str) -> None:
        await go.wait()
        await take(snapshots, machine_id)

    machine = await house.run()
    await house.sh(machine, "echo here > /dev/shm/mark")
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_disk, "take", take_late)
        try:
            await house.suspend(machine)
            flip(house.hot(machine))
            await _assert_cold(house, machine)
        finally:
            go.set()
    await house.destroy(machine)


async def test_the_snapshot_of_another_machine_is_not_taken(house: House) -> None:
    machines = [await house.run() for _ in range(2)]
    for machine in machines:
        await house.sh(machine, "echo here > /dev/shm/mark")
        await house.suspend(machine)
        await house.on_disk(machine)
    one, other = (house.saved(machine) for machine in machines)
    shutil.rmtree(one)
    other.rename(one)
    for machine in machines:
        await _assert_cold(house, machine)
        await house.destroy(machine)


async def test_another_machines_seal_fits_only_that_machine(house: House) -> None:
    machines = [await house.run() for _ in range(2)]
    for machine in machines:
        await house.sh(machine, "echo here > /dev/shm/mark")
        await house.suspend(machine)
        await house.on_disk(machine)
    one, other = (house.saved(machine) for machine in machines)
    shutil.copy(other / "seal", one / "seal")
    await _assert_cold(house, machines[0])
    assert await house.start(machines[1]) == {"resumed": True}
    for machine in machines:
        await house.destroy(machine)


async def test_a_snapshot_is_taken_once(house: House) -> None:
    """Two lives of one memory would have the same random numbers."""
    machine = await house.run()
    await house.sh(machine, "echo here > /dev/shm/mark")
    await house.suspend(machine)
    await house.on_disk(machine)
    copy = house.home / "copy"
    copy_sparse(house.saved(machine), copy)
    assert await house.start(machine) == {"resumed": True}
    await house.suspend(machine)
    shutil.rmtree(house.saved(machine))
    house.hot(machine).unlink(missing_ok=True)
    copy.rename(house.saved(machine))
    await _assert_cold(house, machine)
    await house.destroy(machine)


@pytest.mark.parametrize("name", ["memory", "state", "seal"])
async def test_a_template_that_was_cut_is_made_anew(tmp_path: Path, _able: None, name: str) -> None:
    async with opened(tmp_path, warm=0) as house:
        machine = await house.run()
        await house.stop(machine)
        [template] = [path for path in tmp_path.iterdir() if path.is_dir()]
        await house.aclose()
        cut(template / name)
        await house.open()
        await house.start(machine)
        assert await house.sh(machine, "echo on") == "on\n"
        assert house.start_event(machine) == {"resumed": False}


async def _assert_cold(house: House, machine: str) -> None:
    said = await house.start(machine)
    assert said["resumed"] is False
    assert said["note"].startswith("cold start: "), said
    assert await house.sh(machine, "ls /dev/shm/mark 2>/dev/null | wc -l") == "0\n"
    assert not house.saved(machine).exists()
    assert not house.hot(machine).exists()
