"""A VM that a suspended machine has left standing: it changes nothing, is bounded, and is never needed."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from midge.drivers.pool_settings import ParkedSettings
from midge.drivers.qemu.snapshot_files import FileIdentity
from midge.drivers.qemu.vm import VmMaker
from midge.errors import NoCapacity
from midge.worker import local
from tests.contract.drivers.kit import eventually
from tests.integration.qemu.conftest import PARKED
from tests.integration.qemu.house import DEADLINE_S, House, digest
from tests.integration.qemu.test_authenticity import flip

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

ROUNDS = 5
PACKETS = 2000
MARK = "echo here > /mark; echo here > /dev/shm/mark"
LOOK = "cat /mark /dev/shm/mark 2>/dev/null | wc -l"


@pytest.fixture
def yard(parked_house: House) -> Iterator[House]:
    """The house with its bounds as they were."""
    vms = parked_house.driver._parked
    yield parked_house
    vms._settings = ParkedSettings(vms_max=PARKED)


async def marked(house: House) -> str:
    machine = await house.run()
    await house.sh(machine, MARK)
    return machine


async def test_a_resume_soon_afterwards_finds_the_same_vm(yard: House) -> None:
    machine = await marked(yard)
    vm = yard.vm(machine)
    processes = yard.process(vm)
    for _ in range(ROUNDS):
        await yard.suspend(machine)
        assert yard.parked() == {vm}
        assert await yard.start(machine) == {"resumed": True}
        assert "parked" in yard.phases(machine)
        assert (yard.vm(machine), yard.process(vm)) == (vm, processes)
        assert await yard.sh(machine, LOOK) == "2\n"
        assert not yard.saved(machine).exists()
        assert not yard.hot(machine).exists()
    await yard.destroy(machine)


async def test_nothing_changes_while_it_stands_whatever_is_sent_to_it(yard: House) -> None:
    machine = await marked(yard)
    address = yard.host.get(machine).private_ip
    await yard.suspend(machine)
    files = [yard.hot(machine), yard.saved(machine) / "layer", yard.saved(machine) / "state"]
    before = [(FileIdentity.of(path), digest(path)) for path in files]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(PACKETS):
            sender.sendto(number.to_bytes(4) * 250, (address, 9))
    await eventually((yard.saved(machine) / "memory").exists, "memory on disk")
    assert [(FileIdentity.of(path), digest(path)) for path in files[:2]] == before[:2]
    assert digest(yard.saved(machine) / "memory") == before[0][1]
    assert yard.parked()
    assert await yard.start(machine) == {"resumed": True}
    assert await yard.sh(machine, LOOK) == "2\n"
    await yard.destroy(machine)


@pytest.mark.parametrize("whom", [0, 1], ids=["shim", "QEMU"])
async def test_one_that_was_killed_is_not_missed(yard: House, whom: int) -> None:
    before = yard.picture()
    machine = await marked(yard)
    process = yard.process(yard.vm(machine))[whom]
    await yard.suspend(machine)
    [parked] = yard.driver._parked._parked.values()
    os.kill(process, signal.SIGKILL)
    await eventually(lambda: not parked.is_alive, "death of a parked VM")
    assert await yard.start(machine) == {"resumed": True}
    assert "restore" in yard.phases(machine)
    assert await yard.sh(machine, LOOK) == "2\n"
    await yard.destroy(machine)
    await yard.assert_nothing_left_since(before)


async def test_one_too_many_ends_the_oldest_whose_machine_stays_suspended(yard: House) -> None:
    yard.driver._parked._settings = ParkedSettings(vms_max=1)
    before = yard.picture()
    first, second = await marked(yard), await marked(yard)
    vm = yard.vm(first)
    await yard.suspend(first)
    await yard.suspend(second)
    await eventually(lambda: not (yard.home / "run" / "m" / vm).exists(), "end of the oldest")
    await eventually(lambda: not yard.hot(first).exists(), "its memory on disk only")
    assert await yard.start(first) == {"resumed": True}
    assert "restore" in yard.phases(first)
    assert await yard.start(second) == {"resumed": True}
    assert "parked" in yard.phases(second)
    for machine in (first, second):
        assert await yard.sh(machine, LOOK) == "2\n"
        await yard.destroy(machine)
    await yard.assert_nothing_left_since(before)


@pytest.mark.parametrize("on_disk", [False, True])
async def test_when_memory_is_short_all_go(
    yard: House, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await marked(yard)
    await yard.suspend(machine)
    if on_disk:
        await eventually((yard.saved(machine) / "memory").exists, "memory on disk")
    monkeypatch.setattr(yard.driver._parked, "_available_ratio", lambda: 0.05)
    yard.driver._parked._evict()
    assert not yard.parked()
    await yard.on_disk(machine)
    assert await yard.start(machine) == {"resumed": True}
    assert await yard.sh(machine, LOOK) == "2\n"
    await yard.suspend(machine)
    assert not yard.parked(), "and none is parked meanwhile"
    await yard.destroy(machine)


async def test_a_machine_that_is_too_large_is_not_parked(yard: House) -> None:
    yard.driver._parked._settings = replace(ParkedSettings(), memory_mb=16)
    machine = await marked(yard)
    await yard.suspend(machine)
    assert not yard.parked()
    assert await yard.start(machine) == {"resumed": True}
    assert await yard.sh(machine, LOOK) == "2\n"
    await yard.destroy(machine)


async def test_memory_that_somebody_wrote_to_is_not_gone_on_with(yard: House) -> None:
    """The copy on disk is as it was sealed."""
    machine = await marked(yard)
    await yard.suspend(machine)
    await eventually((yard.saved(machine) / "memory").exists, "memory on disk")
    flip(yard.hot(machine))
    assert await yard.start(machine) == {"resumed": True}
    assert "restore" in yard.phases(machine)
    assert await yard.sh(machine, LOOK) == "2\n"
    await yard.destroy(machine)


async def test_a_disk_that_somebody_wrote_to_means_a_cold_start(yard: House) -> None:
    before = yard.picture()
    machine = await marked(yard)
    await yard.suspend(machine)
    flip(yard.saved(machine) / "layer")
    said = await yard.start(machine)
    assert said["resumed"] is False
    assert said["note"].startswith("cold start: ")
    assert await yard.sh(machine, LOOK) == "0\n"
    await yard.destroy(machine)
    await yard.assert_nothing_left_since(before)


@pytest.mark.parametrize("name", ["state", "seal", "memory"])
async def test_files_it_does_not_need_are_not_read_and_not_kept(yard: House, name: str) -> None:
    machine = await marked(yard)
    await yard.suspend(machine)
    await eventually((yard.saved(machine) / "memory").exists, "memory on disk")
    flip(yard.saved(machine) / name) if name != "seal" else (yard.saved(machine) / name).write_bytes(b"")
    assert await yard.start(machine) == {"resumed": True}
    assert "parked" in yard.phases(machine)
    assert not yard.saved(machine).exists()
    assert await yard.sh(machine, LOOK) == "2\n"
    await yard.destroy(machine)


async def test_a_resume_from_disk_and_from_the_vm_take_turns(yard: House) -> None:
    """Memory on tmpfs, then on disk, under a VM that is parked or ended."""
    machine = await marked(yard)
    for number, end in enumerate((True, False, True, True, False, False)):
        await yard.sh(machine, f"echo {number} >> /rounds; echo {number} >> /dev/shm/rounds")
        await yard.suspend(machine)
        if end:
            await yard.on_disk(machine)
        assert await yard.start(machine) == {"resumed": True}
        assert ("restore" if end else "parked") in yard.phases(machine)
    said = await yard.sh(machine, "cat /rounds /dev/shm/rounds")
    assert said.split() == [str(number) for number in range(6)] * 2
    await yard.destroy(machine)


async def test_a_restart_of_the_worker_ends_them_all(yard: House) -> None:
    machine = await marked(yard)
    await yard.suspend(machine)
    vm = next(iter(yard.parked()))
    qemu = yard.process(vm)[1]
    await yard.reopen()
    await eventually(lambda: not Path(f"/proc/{qemu}").exists(), "end of the VM")
    await yard.on_disk(machine)
    assert await yard.start(machine) == {"resumed": True}
    assert await yard.sh(machine, LOOK) == "2\n"
    await yard.destroy(machine)


async def test_a_host_without_a_place_for_a_vm_costs_nobody_his_memory(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await marked(house)
    await house.suspend(machine)

    async def full(_: VmMaker) -> None:
        raise NoCapacity("all network slots of this host are in use")

    with monkeypatch.context() as patch:
        patch.setattr(
            local, "ANSWER_AFTER_S", DEADLINE_S
        )  # how long a start is waited for to hear why it failed
        patch.setattr(VmMaker, "reserve", full)
        with pytest.raises(NoCapacity):
            await house.start(machine)
        assert await house.reach(machine, "failed") == "failed"
    assert await house.start(machine) == {"resumed": True}
    assert await house.sh(machine, LOOK) == "2\n"
    await house.destroy(machine)
