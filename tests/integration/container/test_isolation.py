"""What a container may not do, and what it may."""

from __future__ import annotations

import pytest

from midge.machine.spec import FileSpec
from tests.contract.drivers.kit import RUNS, Kit, Program

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.container,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


async def output(kit: Kit, script: str) -> str:
    _, log = await kit.run(kit.spec(Program(script)))
    return log


async def test_capabilities_and_filter_are_set(kit: Kit) -> None:
    lines = (await output(kit, "cat /proc/self/status")).splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["CapEff"] == status["CapBnd"] == "00000000a80425fb"
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "0")


async def test_a_user_has_no_capabilities(kit: Kit) -> None:
    _, log = await kit.run(kit.spec(Program("grep CapEff /proc/self/status"), user="nobody"))
    assert int(log.split()[1], 16) == 0


@pytest.mark.parametrize(
    "command",
    [
        "unshare -U true",
        "unshare -n true",
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /sys",
        "umount /proc",
        "! date -s 2001-01-01 2>&1 | grep -q permitted",
        "dmesg",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /sys/kernel/mm/ksm/run",
        "mkdir $(dirname $(find /sys/fs/cgroup -name cgroup.procs | head -n 1))/own",
        "test -s /proc/kcore",
        "ls /sys/firmware/* 2>/dev/null",
        "echo x > /dev/.midge-init",
        "echo x > /proc/1/exe",
        "ip link set eth0 down",
        "nsenter -t 1 -m true",
    ],
)
async def test_the_host_cannot_be_reached(kit: Kit, command: str) -> None:
    assert "refused" in await output(kit, f"({command}) 2>&1 || echo refused")


async def test_devices_of_the_host_can_be_named_and_not_opened(kit: Kit) -> None:
    log = await output(kit, "mknod /tmp/disk b 254 0 && cat /tmp/disk 2>&1 | head -c 200")
    assert "not permitted" in log


async def test_set_user_id_programs_work(kit: Kit) -> None:
    passwd = b"root::0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
    script = "chmod 4755 /bin/busybox; su nobody -c 'id -u; su root -c \"id -u\"'; true"
    spec = kit.spec(Program(script), files=[FileSpec(path="/etc/passwd", data=passwd)])
    _, log = await kit.run(spec)
    assert log.split() == ["65534", "0"]


async def test_the_process_inherits_no_descriptors(kit: Kit) -> None:
    assert (await output(kit, "ls /proc/$$/fd; true")).split() == ["0", "1", "2"]


async def test_only_own_processes_are_seen(kit: Kit) -> None:
    pids = [int(word) for word in (await output(kit, "ls /proc | grep '^[0-9]'")).split()]
    assert pids[0] == 1
    assert len(pids) < 8


async def test_the_writable_layer_holds_what_the_machine_wrote_and_no_more(kit: Kit) -> None:
    spec = kit.spec(Program(f"echo mine > /srv-file; echo begun; {RUNS.script}"))
    await kit.start(spec)
    await kit.begun(spec)
    upper = kit.home / "layers" / (kit.home / "run" / spec.machine_id).readlink() / "upper"
    names = {str(path.relative_to(upper)) for path in upper.rglob("*")}
    assert names - {"etc", "dev", "proc", "sys"} <= {
        "srv-file",
        "etc/hostname",
        "etc/hosts",
        "etc/resolv.conf",
    }


async def test_without_a_network_there_is_only_loopback(kit: Kit) -> None:
    _, log = await kit.run(kit.spec(Program("ls /sys/class/net; ip -4 addr"), network=None))
    assert log.split()[0] == "lo"
    assert "eth0" not in log
    assert "127.0.0.1" in log


async def test_memory_that_runs_out_is_reported_as_that(kit: Kit) -> None:
    before = kit.picture()
    spec = kit.spec(argv=["tail", "/dev/zero"])
    status, _ = await kit.run(spec)
    assert (status.exit_code, status.oom_killed) == (137, True)
    await kit.driver.cleanup(spec.machine_id, None)
    await kit.assert_nothing_left_since(before)


async def test_the_limits_are_those_of_the_shape(kit: Kit) -> None:
    script = (
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null;"
        "cat pids/pids.max pids.max 2>/dev/null"
    )
    assert (await output(kit, script)).split() == [str(256 << 20), "4096"]


async def test_a_persistent_root_is_kept_until_the_machine_is_destroyed(kit: Kit) -> None:
    spec = kit.spec(Program("cat /kept 2>/dev/null; echo word > /kept"), rootfs_persist=True)
    logs = []
    for _ in range(2):
        _, log = await kit.run(spec)
        logs.append(log)
        await kit.driver.cleanup(spec.machine_id, None)
        spec = kit.again(spec)
    assert logs == ["", "word\n"]
    await kit.driver.destroy(spec.machine_id)
    assert list((kit.home / "machines").iterdir()) == []
