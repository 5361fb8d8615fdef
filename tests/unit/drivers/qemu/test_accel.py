"""KVM only where a real boot has proved it, whether it is hoped for or ordered."""

from __future__ import annotations

from pathlib import Path

import pytest

from midge.drivers.qemu import accel
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
    with pytest.raises(NotSupported, match="is missing or cannot be opened"):
        await accel.choose("kvm", "k", boots, tmp_path / "verdict.json")


async def test_emulation_is_not_asked_about(tmp_path: Path) -> None:
    assert (await accel.choose("tcg", "k", hangs, tmp_path / "verdict.json"))[0] == "tcg"
