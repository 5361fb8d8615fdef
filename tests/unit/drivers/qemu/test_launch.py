"""How a VMM comes to its device."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from midge.drivers.qemu.command import Acceleration, Hardware
from midge.drivers.qemu.launch import own_device
from midge.machine.spec import Shape

ROOT, KVM_GROUP = 0, 104


class Device:
    """A device node with an owner and a mode, as far as it is looked at."""

    def __init__(self, gid: int, mode: int) -> None:
        self._gid = gid
        self._mode = mode

    def stat(self) -> os.stat_result:
        found = SimpleNamespace(st_uid=ROOT, st_gid=self._gid, st_mode=stat.S_IFCHR | self._mode)
        return cast(os.stat_result, found)


def hardware(acceleration: Acceleration) -> Hardware:
    return Hardware(shape=Shape(), acceleration=acceleration, cpu_model="host")


@pytest.mark.parametrize("gid", [ROOT, KVM_GROUP])
@pytest.mark.parametrize(
    ("mode", "own"),
    [(0o600, True), (0o660, True), (0o664, True), (0o662, True), (0o666, False)],
)
def test_a_node_of_its_own_unless_everybody_may_open_the_hosts(gid: int, mode: int, own: bool) -> None:
    device = cast(Path, Device(gid, mode))
    assert own_device(hardware("kvm"), device) is (device if own else None)


def test_emulation_needs_no_device(tmp_path: Path) -> None:
    assert own_device(hardware("tcg"), tmp_path / "kvm") is None


def test_a_device_that_is_gone_is_for_the_shim_to_refuse(tmp_path: Path) -> None:
    assert own_device(hardware("kvm"), tmp_path / "kvm") == tmp_path / "kvm"
