"""KVM only where a real boot has proved it, whether it is hoped for or ordered."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from midge.drivers.qemu import accel
from midge.drivers.shim import DeviceRefused
from midge.errors import DriverError, NotSupported

pytestmark = pytest.mark.anyio


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device that can be opened, as on a host where it then does not boot."""
    made = tmp_path / "kvm"
    made.write_bytes(b"")
    monkeypatch.setattr(accel, "KVM_DEVICE", made)
    return made


async def boots() -> None:
    """What a guest does that comes up."""


async def hangs() -> None:
    raise DriverError("the guest said nothing")


async def test_what_boots_is_used(device: Path, tmp_path: Path) -> None:
    for wish in ("auto", "kvm"):
        chosen, _ = await accel.choose(wish, "k", boots, tmp_path / "verdict.json")
        assert chosen == "kvm"


async def test_auto_falls_back_and_remembers(device: Path, tmp_path: Path) -> None:
    verdict = tmp_path / "verdict.json"
    assert (await accel.choose("auto", "k", hangs, verdict))[0] == "tcg"
    chosen, why = await accel.choose("auto", "k", boots, verdict)
    assert (chosen, "the guest said nothing" in why) == ("tcg", True)


async def test_kvm_that_does_not_boot_is_refused_when_it_is_ordered(device: Path, tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="the guest said nothing") as caught:
        await accel.choose("kvm", "k", hangs, tmp_path / "verdict.json")
    assert "tcg" in caught.value.hint


async def test_kvm_without_its_device_is_refused_when_it_is_ordered(device: Path, tmp_path: Path) -> None:
    device.unlink()
    with pytest.raises(NotSupported, match=f"there is no {device}") as caught:
        await accel.choose("kvm", "k", boots, tmp_path / "verdict.json")
    assert "modprobe" in caught.value.hint
    assert not (tmp_path / "verdict.json").exists()


async def refused() -> None:
    raise DeviceRefused("cannot start qemu: own device /dev/kvm: make the node", hint="CAP_MKNOD")


async def test_a_vmm_that_cannot_have_the_device_is_no_guest_that_does_not_boot(
    device: Path, tmp_path: Path
) -> None:
    path = tmp_path / "verdict.json"
    chosen, why = await accel.choose("auto", "k", refused, path)
    assert chosen == "tcg"
    assert why.startswith("no permission")
    assert "did not boot" not in why
    found = accel.read_verdict(path)
    assert found is not None
    assert (found.outcome, found.usable, found.hint) == ("no-permission", False, "CAP_MKNOD")
    with pytest.raises(NotSupported, match="no permission") as caught:
        await accel.choose("kvm", "k", refused, path)
    assert "CAP_MKNOD" in caught.value.hint


async def test_permission_that_is_given_later_is_used_at_the_next_start(device: Path, tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    await accel.choose("auto", "k", refused, path)
    assert accel.remembered("k", path) is None
    assert (await accel.choose("auto", "k", boots, path))[0] == "kvm"
    # What a boot has shown is kept.
    assert (await accel.choose("auto", "k", hangs, path))[0] == "kvm"


async def test_each_problem_has_its_own_text_and_hint(device: Path, tmp_path: Path) -> None:
    spinning = tmp_path / "spinning.json"
    await accel.choose("auto", "k", hangs, spinning)
    denied = tmp_path / "denied.json"
    await accel.choose("auto", "k", refused, denied)
    found = [accel.read_verdict(spinning), accel.read_verdict(denied), accel.device_problem(tmp_path / "no")]
    assert len({one.reason for one in found if one}) == 3
    assert len({one.hint for one in found if one and one.hint}) == 3


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOENT, "no-device", "there is no "),
        (errno.ENODEV, "no-device", "does not open: No such device"),
        (errno.ENXIO, "no-device", "does not open: No such device or address"),
        (errno.EACCES, "no-permission", "no permission to open "),
        (errno.EPERM, "no-permission", "no permission to open "),
    ],
)
def test_why_the_device_does_not_open(
    device: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: str, words: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    problem = accel.device_problem(device)
    assert problem is not None
    assert problem.kind == kind
    assert words in problem.reason
    assert str(device) in problem.reason
    assert problem.hint


@pytest.mark.parametrize(("euid", "words"), [(0, "--device"), (1000, "root")])
def test_who_is_denied_the_device_is_told_what_helps_him(
    device: Path, monkeypatch: pytest.MonkeyPatch, euid: int, words: str
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    problem = accel.device_problem(device)
    assert problem is not None
    assert words in problem.hint


def test_a_verdict_of_before_outcomes_is_not_believed(tmp_path: Path) -> None:
    """It says `does not boot` of hosts where the VMM could not open the device."""
    path = tmp_path / "verdict.json"
    old = {"boot_id": accel.boot_id(), "kernel": "k", "usable": False, "reason": "did not boot"}
    path.write_bytes(msgspec.json.encode(old))
    assert accel.remembered("k", path) is None


async def test_emulation_is_not_asked_about(tmp_path: Path) -> None:
    assert (await accel.choose("tcg", "k", hangs, tmp_path / "verdict.json"))[0] == "tcg"
