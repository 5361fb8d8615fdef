"""Which run of a machine is in which VM: what a repeated start finds, without any VM."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from midge.cgroup import CgroupTree
from midge.drivers import rundir as rundirs
from midge.drivers.base import Handle
from midge.drivers.instance import Instance
from midge.drivers.links import MachineLinks
from midge.drivers.qemu.residents import Residents
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.vm import VmMaker
from midge.drivers.rundir import RunRecord
from midge.errors import NotRunning
from midge.guest.channel import GuestChannel
from midge.guest.messages import Ended, GuestExit
from midge.machine.spec import ImageSpec, MachineSpec, Shape
from midge.net.config import NetConfig
from midge.net.pool import NetPool

pytestmark = pytest.mark.anyio

SPEC = MachineSpec(
    machine_id="m1",
    app="app",
    name="m1",
    version="01",
    start_id="start1",
    image=ImageSpec(digest="sha256:00", reference="r"),
    shape=Shape(),
    hostname="m1",
    argv=[],
    env=[],
    cwd="/",
    log_path="/nonexistent/output.log",
)
HANDLE = Handle(driver="qemu", machine_id="m1", start_id="start1", data={"vm": "s1"})


class Vms(VmMaker):
    """VMs that are run directories and nothing else."""

    async def remove(self, name: str) -> None:
        shutil.rmtree(self.rundir(name))


@pytest.fixture
def residents(tmp_path: Path) -> Residents:
    settings = QemuSettings(
        rundir=tmp_path,
        memory_dir=tmp_path / "memory",
        layers=tmp_path / "layers",
        machines=tmp_path / "machines",
        seal_key=tmp_path / "seal.key",
        templates=tmp_path / "templates",
        blanks=tmp_path / "blanks",
        kernels=tmp_path / "kernels",
        acceleration="tcg",
        nameservers=lambda: (),
    )
    net = NetPool(NetConfig(tag="abcdef"))
    vms = Vms(settings, net, CgroupTree(parent="none"))

    async def free(_: str) -> None:
        """No VM of an earlier run has the address."""

    return Residents(MachineLinks(tmp_path), vms, net, free)


def left(
    residents: Residents, *, start_id: str = "start1", told: bool = True, **files: msgspec.Struct
) -> Path:
    """What a worker has left of a run: its record, its link, and the shim's files by their names."""
    rundir = residents.rundir("s1")
    rundir.mkdir()
    rundirs.write_record(rundir, RunRecord(start_id=start_id, told=told))
    residents.links.link("m1", "s1")
    for name, content in files.items():
        (rundir / f"{name}.json").write_bytes(msgspec.json.encode(content))
    return rundir


async def test_a_run_that_has_ended_is_handed_back_with_its_exit(residents: Residents) -> None:
    rundir = left(residents, exit=GuestExit(exit_code=6), ended=Ended(exit_code=0))
    for _ in range(2):
        assert await residents.adopt(SPEC) == HANDLE
    assert residents.recorded_exit(HANDLE).exit_code == 6
    assert rundir.exists()


async def test_a_vm_that_died_after_its_guest_was_told_counts_as_run(residents: Residents) -> None:
    left(residents, ended=Ended(signal=9))
    assert await residents.adopt(SPEC) == HANDLE
    assert residents.recorded_exit(HANDLE).exit_code == 137


async def test_a_vm_that_vanished_with_its_shim_counts_as_run(residents: Residents) -> None:
    left(residents)
    assert await residents.adopt(SPEC) == HANDLE
    assert "vanished" in residents.recorded_exit(HANDLE).error


async def test_a_vm_that_died_before_its_guest_was_told_is_cleared_away(residents: Residents) -> None:
    rundir = left(residents, told=False, ended=Ended(signal=9))
    assert await residents.adopt(SPEC) is None
    assert not rundir.exists()
    assert residents.links.find("m1") is None


async def test_the_end_of_another_start_is_cleared_away(residents: Residents) -> None:
    rundir = left(residents, start_id="start0", exit=GuestExit(exit_code=6))
    with pytest.raises(NotRunning):
        residents.recorded_exit(HANDLE)
    assert await residents.adopt(SPEC) is None
    assert not rundir.exists()


def test_a_guest_in_hand_is_that_of_its_start_alone(residents: Residents, tmp_path: Path) -> None:
    instance = Instance(tmp_path, GuestChannel(tmp_path / "guest.sock"))
    residents.hold("m1", "start1", instance)
    assert residents.instance(HANDLE) is instance
    other = msgspec.structs.replace(HANDLE, start_id="start0")
    assert residents.find(other) is None
    with pytest.raises(NotRunning):
        residents.instance(other)
    residents.let_go("m1")
    assert residents.find(HANDLE) is None
