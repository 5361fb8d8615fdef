"""The init as PID 1 of a real kernel, in software emulation."""

from __future__ import annotations

import asyncio
import base64
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from midge.errors import MidgeError
from midge.guest.protocol import FrameType
from midge.kernel import Kernel, KernelStore, default_root
from tests.integration.init import rootfs, vm
from tests.integration.init.guest import NONCE
from tests.integration.init.vm import VmGuest

pytestmark = [pytest.mark.slow, pytest.mark.vm, pytest.mark.timeout(180)]

ROOT = {"lower": "/dev/vda", "upper": "/dev/vdb"}


@pytest.fixture(scope="module", params=["trimmed", "debian"])
def kernel(base_root: Path, request: pytest.FixtureRequest) -> Iterator[Kernel]:
    for tool in ("qemu-system-x86_64", "mkfs.erofs", "mkfs.ext4", "debugfs"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    store = KernelStore(default_root())
    try:
        kernel = asyncio.run(store.ensure(request.param, init_binary=rootfs.INIT))
    except MidgeError as error:
        pytest.skip(f"no kernel: {error} ({error.hint})")
    yield kernel
    asyncio.run(store.remove(kernel.id))


@pytest.fixture(scope="module")
def lower(base_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vm.make_lower(base_root, tmp_path_factory.mktemp("lower") / "lower.erofs")


@pytest.fixture
def boot(kernel: Kernel, lower: Path, tmp_path: Path) -> Iterator[Callable[..., VmGuest]]:
    """Boots a machine with a blank writable layer and a blank volume, up to its answer to HELLO."""
    machines: list[VmGuest] = []

    def boot(*extra: str) -> VmGuest:
        disks = [lower, vm.make_ext4(tmp_path / "upper", 128), vm.make_ext4(tmp_path / "volume", 32)]
        machine = VmGuest(kernel, disks, tmp_path, extra)
        machines.append(machine)
        machine.send(FrameType.HELLO, {"version": 1, "nonce": NONCE})
        try:
            answer = machine.expect(FrameType.HELLO_ACK, deadline_s=vm.BOOT_DEADLINE_S)
        except AssertionError as error:
            raise AssertionError(machine.console.read_text(errors="replace")[-4000:]) from error
        assert answer["state"] == "waiting"
        return machine

    yield boot
    for machine in machines:
        machine.__exit__(None, None, None)


def configure(machine: VmGuest, script: str, **members: Any) -> None:
    message = {
        "mode": "vm",
        "root": ROOT,
        "wall_clock_ns": 2_000_000_000 * 10**9,
        "entropy": base64.b64encode(bytes(range(64))).decode(),
        "hostname": "m-1",
        **members,
    }
    machine.configure(["sh", "-c", script], **message)
    machine.send(FrameType.RUN)


NET = {
    "interface": "eth0",
    "mac": "02:00:00:00:00:99",
    "addresses": ["10.0.2.15/32", "fd00::15/64"],
    "gateway": "10.0.2.2",
    "gateway6": "fe80::2",
    "mtu": 1420,
}

EVERYTHING = """
hostname; cat /etc/hostname; date +%Y; ls -d /init /modules.list; echo lower-plus >/etc/written
ip link show eth0; ip addr show eth0; ip route; ip -6 route; ping -c1 -W5 10.0.2.2 | grep received
cat /proc/swaps; grep -E ' (/|/data|/proc|/sys|/dev|/dev/pts|/dev/shm|/run|/sys/fs/cgroup) ' /proc/mounts
echo kept >/data/file; ls -ld /data; ls -l /dev/stdin; tty; exit 3
"""


def test_a_machine_gets_root_volume_swap_network_and_powers_off(
    boot: Callable[..., VmGuest], tmp_path: Path
) -> None:
    machine = boot()
    mounts = [{"device": "/dev/vdc", "path": "/data", "fstype": "ext4"}]
    root = {**ROOT, "persist": True}
    configure(machine, EVERYTHING, root=root, mounts=mounts, swap_mb=16, net=NET)
    report = machine.expect(FrameType.EXIT)
    out = machine.output["stdout"].decode()
    assert report["exit_code"] == 3, out + machine.output["stderr"].decode()
    assert out.startswith("m-1\nm-1\n2033\n")
    assert "/init" not in out.replace("/init:", "")
    for words in (
        "02:00:00:00:00:99",
        "mtu 1420",
        "inet 10.0.2.15/32",
        "inet6 fd00::15/64",
        "default via 10.0.2.2 dev eth0",
        "default via fe80::2 dev eth0",
        "1 packets received",
        "/upper/swap",
        "overlay / overlay rw",
        "/dev/vdc /data ext4 rw",
        "cgroup2 /sys/fs/cgroup cgroup2",
        "devpts /dev/pts devpts",
    ):
        assert words in out, out
    assert report["exited_at_ns"] // 10**9 - 2_000_000_000 < 100
    machine.send_raw(FrameType.EXIT_ACK, 0)
    assert machine.wait() == 0
    assert vm.read_file(tmp_path / "volume", "/file") == b"kept\n"
    assert vm.read_file(tmp_path / "upper", "/root/etc/written") == b"lower-plus\n"
    assert vm.is_clean(tmp_path / "volume")
    assert vm.is_clean(tmp_path / "upper")


def test_a_process_killed_for_want_of_memory_says_so(boot: Callable[..., VmGuest]) -> None:
    machine = boot()
    configure(machine, "exec tail /dev/zero")
    report = machine.expect(FrameType.EXIT, deadline_s=60)
    assert (report["signal"], report["oom_killed"]) == (9, True)
    machine.send_raw(FrameType.EXIT_ACK, 0)
    assert machine.wait() == 0


def test_a_warmed_guest_starts_like_any_other(boot: Callable[..., VmGuest]) -> None:
    machine = boot()
    machine.send(FrameType.WARM, {"argv": ["/bin/sh", "-c", ":"]})
    machine.expect(FrameType.WARMED)
    assert machine.hello("after")["state"] == "waiting"
    begin = time.monotonic()
    configure(machine, "echo hi; mount | grep -c overlay")
    machine.until(lambda: bool(machine.output["stdout"]), "output")
    print(f"{(time.monotonic() - begin) * 1000:.0f} ms from CONFIGURE to output")  # noqa: T201 - shown with -s
    assert machine.exit()["exit_code"] == 0
    assert machine.output["stdout"] == b"hi\n1\n"
    assert machine.wait() == 0


def test_a_machine_that_cannot_be_configured_ends_with_the_reason(boot: Callable[..., VmGuest]) -> None:
    machine = boot()
    configure(machine, "true", root={**ROOT, "lower": "/dev/vdz"})
    report = machine.exit()
    assert report["exit_code"] == 125
    assert "/dev/vdz" in report["error"]
    assert machine.wait() == 0


def test_execs_have_terminals_and_the_end_is_by_shutdown(boot: Callable[..., VmGuest]) -> None:
    machine = boot()
    configure(machine, "exec sleep 1000", net=NET)
    machine.expect(FrameType.RUNNING)
    machine.exec(1, ["sh", "-c", "tty; stty size; cat /proc/sys/kernel/random/entropy_avail"], tty=True)
    assert machine.exec_exit(1)["exit_code"] == 0
    assert machine.exec_output[1]["stdout"].startswith(b"/dev/pts/0\r\n24 80\r\n")
    machine.send(FrameType.STATS, stream=2)
    stats = machine.expect(FrameType.STATS_REPLY)
    assert {"vda", "vdb", "vdc"} == {disk["name"] for disk in stats["disks"]}
    fork = {**NET, "mac": "02:00:00:00:00:77", "addresses": ["10.0.2.77/32"]}
    machine.send(FrameType.RESUME, {"wall_clock_ns": 2_100_000_000 * 10**9, "hostname": "fork", "net": fork})
    machine.expect(FrameType.RESUMED)
    machine.exec(3, ["sh", "-c", "hostname; date +%Y; ip addr show eth0; ip route; ping -c1 -W5 10.0.2.2"])
    assert machine.exec_exit(3)["exit_code"] == 0
    out = machine.exec_output[3]["stdout"].decode()
    assert out.startswith("fork\n2036\n")
    assert "02:00:00:00:00:77" in out
    assert "10.0.2.77/32" in out
    assert "10.0.2.15" not in out
    assert "fd00::15" not in out
    assert "default via 10.0.2.2" in out
    machine.send(FrameType.SHUTDOWN)
    assert machine.wait() == 0
