"""The init as PID 1 of a real kernel, in software emulation."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from midge.guest.protocol import FrameType
from tests.integration.init import vm
from tests.integration.init.vm import ROOT, VmGuest, configure

pytestmark = [pytest.mark.slow, pytest.mark.vm, pytest.mark.timeout(600)]

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
ip link show eth0; ip addr show eth0; ip route; ip -6 route; ping -c1 -W30 10.0.2.2 | grep received
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
    report = machine.expect(FrameType.EXIT, deadline_s=vm.BOOT_DEADLINE_S)
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
    machine.exec(3, ["sh", "-c", "hostname; date +%Y; ip addr show eth0; ip route; ping -c1 -W30 10.0.2.2"])
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


# Programs of an image that do what a rehearsal must not let them: write, tell others, start others, never end.
REHEARSED = [
    {
        "argv": [
            "/bin/sh",
            "-c",
            "read line < /etc/passwd; echo $line > /etc/written; mkdir /made; kill -9 -1",
        ]
    },
    {"argv": ["/bin/sh", "-c", "true & mkfifo /pipe; wait"], "user": "app", "cwd": "/home/app"},
    {"argv": ["/bin/sh", "-c", "while :; do :; done"], "env": [["A", "b"]]},
    {"argv": ["/bin/no-such-program"], "user": "nobody-knows", "cwd": "/nowhere"},
]
TRACES = """
ls -d /etc/written /made /pipe /stage /practice /.midge* 2>&1 | grep -v 'No such file'
mkdir /tmp/upper; mount -t ext4 /dev/vdb /tmp/upper; cd /tmp/upper; find root -type f; umount /tmp/upper
grep -vE ':0000 ' /proc/net/tcp | wc -l; grep -c . /proc/net/arp; ip route; ip addr show eth0 | grep global
dmesg | grep -E 'type=1326|segfault|traps:'; ls -d /sys/fs/cgroup/midge* 2>&1 | grep -v 'No such'
cat /proc/sys/kernel/seccomp/actions_logged /proc/sys/debug/exception-trace
cut -d' ' -f 2 /proc/mounts | sort | uniq -d; echo done
"""


def test_a_rehearsal_leaves_no_trace(boot: Callable[..., VmGuest]) -> None:
    plain: list[bytes] = []
    traces: list[bytes] = []
    for rehearse in ([], REHEARSED):
        machine = boot()
        network = {"mac": "02:4d:00:00:00:01", "addresses": ["169.254.1.1/32"], "gateway": "169.254.0.1"}
        message = {"argv": ["/init", "--wait"], "read": ["/bin/sh"], "net": network, "keep": True}
        if rehearse:
            machine.send(FrameType.WARM, {**message, "rehearse": rehearse})
            machine.expect(FrameType.WARMED)
            machine.send(FrameType.WARM, message)
            assert machine.expect(FrameType.ERROR)["code"] == "wrong_state"
        configure(machine, TRACES, net=NET)
        assert machine.exit()["exit_code"] == 0
        (traces if rehearse else plain).append(bytes(machine.output["stdout"]))
        machine.wait()
    assert traces == plain
    assert b"root/etc/hostname" in plain[0]
