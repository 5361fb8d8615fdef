"""midge-shim: a program that gets a device, and nothing else with it."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from midge import binaries
from midge.drivers.qemu.accel import KVM_DEVICE
from midge.drivers.shim import DeviceRefused, launch

from .conftest import Machine

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(300)]

UID = 64_001
KVM_GROUP = 64_104
ZERO = os.makedev(1, 5)  # a device that every kernel has and that can be opened in every sandbox

# A shell: the tests' own Python may lie where no other user gets to.
LOOK = """
grep -E '^(Uid|Gid|Groups|CapEff):' /proc/self/status | tr '\\t' ' '
exec 3<>"$0" && echo opened && stat -c '%t:%T %u %g %a' "$0"
"""


@pytest.fixture
def device(machine: Machine) -> Iterator[Path]:
    """A node like the host's, where nodes work."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    machine.directory.chmod(0o711)
    folder = machine.directory / "dev"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755,size=64k", "midge-test", folder], check=True)
    try:
        node = folder / "kvm"
        os.mknod(node, stat.S_IFCHR | 0o600, ZERO)
        yield node
    finally:
        subprocess.run(["umount", folder], check=True)


async def looked(machine: Machine, device: Path) -> list[str]:
    """What a program says that looks at itself and opens the device."""
    shim = await machine.launch(
        program=("/bin/sh", "-c", LOOK, str(device)),
        uid=UID,
        gid=UID,
        own_device=device,
        no_new_privs=True,
    )
    await machine.ended(shim)
    return [line.strip() for line in machine.vmm_log().splitlines()]


def expected(rdev: int) -> list[str]:
    return [
        f"Uid: {UID} {UID} {UID} {UID}",
        f"Gid: {UID} {UID} {UID} {UID}",
        "Groups:",
        "CapEff: 0000000000000000",
        "opened",
        f"{os.major(rdev):x}:{os.minor(rdev):x} {UID} {UID} 600",
    ]


@pytest.mark.parametrize(("gid", "mode"), [(0, 0o600), (0, 0o660), (KVM_GROUP, 0o660), (0, 0o666)])
async def test_program_has_the_device_and_no_group(
    machine: Machine, device: Path, gid: int, mode: int
) -> None:
    os.chown(device, 0, gid)
    device.chmod(mode)
    before = device.stat()
    mounts = Path("/proc/self/mountinfo").read_text()
    assert await looked(machine, device) == expected(ZERO)
    # The host's node is as it was, and nothing of the program's is left.
    after = device.stat()
    assert (after.st_ino, after.st_uid, after.st_gid, after.st_mode) == (
        before.st_ino,
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not (machine.rundir / "device").exists()


async def test_the_host_s_kvm_as_it_is_here(machine: Machine) -> None:
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        pytest.skip(f"{KVM_DEVICE} cannot be opened: {error.strerror}")
    assert await looked(machine, KVM_DEVICE) == expected(KVM_DEVICE.stat().st_rdev)


async def test_without_it_the_program_cannot_open_the_device(machine: Machine, device: Path) -> None:
    shim = await machine.launch(program=("/bin/sh", "-c", LOOK, str(device)), uid=UID, gid=UID)
    await machine.ended(shim)
    said = machine.vmm_log()
    assert "Permission denied" in said
    assert "opened" not in said


@pytest.mark.parametrize(
    ("what", "reason"),
    [("missing", "No such file"), ("file", "no character device"), ("link", "no character device")],
)
async def test_what_is_no_device_is_refused(machine: Machine, device: Path, what: str, reason: str) -> None:
    path = device.with_name(what)
    if what == "file":
        path.write_bytes(b"")
    elif what == "link":
        path.symlink_to(device)
    with pytest.raises(DeviceRefused, match=reason) as caught:
        await machine.launch(program=("/bin/true",), uid=UID, gid=UID, own_device=path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert not (machine.rundir / "guest.sock").exists()


async def test_a_device_that_does_not_open_is_refused_by_its_name(machine: Machine, device: Path) -> None:
    node = device.with_name("nothing-behind-it")
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(10, 253))
    with pytest.raises(DeviceRefused, match=r"open as the program's user: No such device"):
        await machine.launch(program=("/bin/true",), uid=UID, gid=UID, own_device=node)


async def test_a_shim_that_may_make_no_nodes_says_so(
    machine: Machine, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container without CAP_MKNOD."""
    shim = machine.directory / "midge-shim"
    real = binaries.find("midge-shim")
    shim.write_text(f'#!/bin/sh\nexec setpriv --bounding-set -mknod -- {real} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setattr(binaries, "find", lambda _: shim)
    spec = dataclasses.replace(machine.spec, program=("/bin/true",), uid=UID, gid=UID, own_device=device)
    with pytest.raises(DeviceRefused, match="make the node: Operation not permitted") as caught:
        await launch(spec)
    assert "CAP_MKNOD" in caught.value.hint
