"""Starts that take a container which waited: nobody can tell them from others, but by the time they take."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from midge.drivers import rundir as rundirs
from midge.drivers.base import Handle, Running
from midge.drivers.container.supply import Container
from midge.drivers.pool_settings import PoolSettings
from midge.drivers.shim_files import read_state
from midge.errors import Conflict
from midge.machine.spec import MachineSpec, Shape
from midge.sys.leaks import snapshot
from tests.contract.drivers.kit import RUNS, Kit, Marks, Program, WarmKit, eventually, warm_container_kit

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.container,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

ROUNDS = 15
DESCRIPTORS_SLACK = 3  # what happens to be open at the moment: a file that a thread reads
BIG = Shape(cpus=2, memory_mb=512)
LIMITS = (
    "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null;"
    "cat pids/pids.max pids.max 2>/dev/null; cat cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 cpu.max"
)
# What a machine can see of itself, whichever way it came up. No counters, and nothing that is another's.
ALL_OF_IT = (
    "id; hostname; ulimit -a; grep -E 'Cap|Seccomp|NoNew|Groups|Umask' /proc/self/status; "
    "stat -c '%A %U:%G %t,%T %n' /* /dev/* /etc/*;"
    "cut -d' ' -f4- /proc/self/mountinfo | sed 's/upperdir=[^ ]*//; s/ [^ ]*midge-init / /; s/s[0-9][0-9]*/N/g';"
    "env | sort; cat /proc/1/cmdline /proc/1/oom_score_adj /etc/hosts /etc/resolv.conf; ls /proc/self/fd; df /dev/shm;"
    "cat /sys/class/net/eth0/address; ip -4 addr show eth0 | grep inet; ip route; cat /proc/1/environ"
)


@pytest.fixture
async def kit(home: Path, cache: Path) -> AsyncIterator[WarmKit]:
    async with warm_container_kit(home, cache) as made:
        yield made
    # However a test ended: machines are destroyed by now, and what waited, or was being made or ended, is gone too.
    await eventually(lambda: not left_of(made), lambda: f"left: {left_of(made)}")


async def started(kit: Kit, spec: MachineSpec) -> tuple[Handle, str]:
    """A start, and the first phase of it: ``slot``, or ``image`` of a container of its own."""
    marks = Marks()
    handle = await kit.driver.start(spec, marks)
    return handle, marks.phases[0]


async def waited_for(kit: WarmKit, spec: MachineSpec) -> Container:
    container = await kit.waiting(spec)
    assert container is not None
    return container


async def taken(kit: WarmKit, spec: MachineSpec) -> tuple[Container, Handle]:
    """A start in a container that waited."""
    container = await waited_for(kit, spec)
    handle, way = await started(kit, spec)
    assert (way, name_of(kit, spec)) == ("slot", container.name)
    return container, handle


def name_of(kit: Kit, spec: MachineSpec) -> str:
    return str((kit.home / "run" / spec.machine_id).readlink())


def processes(container: Container) -> tuple[int, int]:
    """Of shim and init."""
    record = read_state(container.place.rundir).record
    assert record is not None
    return record.shim_pid, record.child_pid


def left_of(kit: Kit) -> list[str]:
    left = snapshot([kit._marker, str(kit.home)], [kit.home / "run", kit.home / "layers"])
    return [*left.process, *left.netns, *left.cgroup, *left.interface, *left.mount, *left.file]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (only their number counts)


def namespaces(kit: Kit, spec: MachineSpec) -> set[str]:
    """Of a machine's init."""
    record = read_state(kit.home / "run" / spec.machine_id).record
    assert record is not None
    folders = (Path("/proc", str(pid), "ns") for pid in (record.child_pid, os.getpid()))
    own, hosts = ({str(entry.readlink()) for entry in folder.iterdir()} for folder in folders)
    return own - hosts


async def forsake(kit: WarmKit) -> None:
    """What the end of a worker by SIGKILL does to what waits: descriptors are closed, nothing is ended."""
    containers = [container for slots in kit.pool._ready.values() for container in slots]
    kit.pool._ready.clear()
    kit.pool._wanted.clear()
    for container in containers:
        await container.channel.aclose()
        container.process.release()
        os.close(container.uts)


async def test_a_start_takes_the_container_that_waits(kit: WarmKit) -> None:
    before = kit.picture()
    spec = kit.spec(RUNS)
    await taken(kit, spec)
    await kit.begun(spec)
    await kit.driver.destroy(spec.machine_id)
    await kit.assert_nothing_left_since(before)


async def test_it_is_used_once(kit: WarmKit) -> None:
    spec = kit.spec(RUNS)
    first, _ = await taken(kit, spec)
    await kit.driver.cleanup(spec.machine_id, None)
    second, _ = await taken(kit, kit.again(spec))
    assert not first.is_usable
    assert second.place.layers != first.place.layers


async def test_a_start_that_finds_none_makes_its_own(kit: WarmKit) -> None:
    spec = kit.spec(RUNS)
    _, way = await started(kit, spec)
    assert way == "image"
    await kit.begun(spec)


@pytest.mark.parametrize("changes", [{"rootfs_persist": True}, {"network": None}])
async def test_some_machines_never_get_one(kit: WarmKit, changes: dict[str, Any]) -> None:
    spec = kit.spec(RUNS, **changes)
    assert await kit.waiting(spec) is None
    assert (await started(kit, spec))[1] == "image"


async def test_a_machine_sees_the_same_either_way(kit: WarmKit) -> None:
    """The same machine, started both ways, sees the same."""
    spec = kit.spec(
        Program(ALL_OF_IT), hostname="box", env=[("PATH", "/bin"), ("A", "b")], user="nobody", searches=["in"]
    )
    logs = []
    for way in ("image", "slot"):
        if way == "slot":
            await kit.waiting(spec)
        handle, seen = await started(kit, spec)
        assert seen == way
        await kit.wait(handle)
        logs.append(kit.log(spec))
        Path(spec.log_path).unlink()
        await kit.driver.cleanup(spec.machine_id, handle)
        spec = kit.again(spec)
    assert "box\n" in logs[0]
    assert logs[0] == logs[1]


async def test_its_limits_are_the_machines(kit: WarmKit) -> None:
    for shape in (Shape(), BIG):
        spec = kit.spec(Program(LIMITS), shape=shape)
        container, handle = await taken(kit, spec)
        await kit.wait(handle)
        assert kit.log(spec).split() == [str(shape.memory_mb << 20), "4096", str(shape.cpus * 100_000)]
        assert container.place.cgroup.memory_limit() == shape.memory_mb << 20


async def test_memory_that_runs_out_is_reported_as_that(kit: WarmKit) -> None:
    spec = kit.spec(argv=["tail", "/dev/zero"])
    _, handle = await taken(kit, spec)
    status = await kit.wait(handle)
    assert (status.exit_code, status.oom_killed) == (137, True)


async def test_processes_are_limited(kit: WarmKit) -> None:
    await kit.reconfigure(pids_max=20)
    spec = kit.spec(Program("for i in $(seq 40); do sleep 1000 & done; echo never"))
    await taken(kit, spec)
    await eventually(lambda: "can't fork" in kit.log(spec), "the limit")


async def test_shared_memory_has_the_size_of_the_shape(kit: WarmKit) -> None:
    await kit.waiting(kit.spec(RUNS))
    spec = kit.spec(Program("df -k /dev/shm | tail -n 1"), shape=BIG)
    handle, way = await started(kit, spec)
    assert way == "image", "one with less shared memory is not taken"
    await kit.wait(handle)
    assert kit.log(spec).split()[1] == str(256 << 10)


async def test_two_machines_of_one_image_share_nothing(kit: WarmKit) -> None:
    await kit.reconfigure(pool=PoolSettings(slots_max=2, per_key=2))
    script = f"hostname > /mark; hostname > /dev/shm/mark; {RUNS.script}"
    specs = [kit.spec(Program(script)) for _ in range(2)]
    await kit.waiting(specs[0])
    await eventually(lambda: len(kit.pool.names()) == 2, "two that wait")
    starts = [await started(kit, spec) for spec in specs]
    assert [way for _, way in starts] == ["slot", "slot"]
    handles = [handle for handle, _ in starts]
    for spec, handle in zip(specs, handles, strict=True):
        await kit.begun(spec)
        assert spec.network is not None
        output, _ = await kit.exec(handle, "cat", "/mark", "/dev/shm/mark", "/etc/hostname")
        assert output.decode().split() == [spec.machine_id] * 3
        output, _ = await kit.exec(handle, "ip", "-4", "-o", "addr", "show", "eth0")
        assert re.findall("inet ([0-9.]*)", output.decode()) == [spec.network.ipv4]
    assert namespaces(kit, specs[0]).isdisjoint(namespaces(kit, specs[1]))


async def test_a_restarted_machine_finds_nothing_of_its_last_run(kit: WarmKit) -> None:
    spec = kit.spec(
        Program("ls /mark /dev/shm/mark 2>/dev/null; echo x > /mark; echo x > /dev/shm/mark; echo end")
    )
    for _ in range(2):
        _, handle = await taken(kit, spec)
        await kit.wait(handle)
        await kit.driver.cleanup(spec.machine_id, None)
        spec = kit.again(spec)
    assert kit.log(spec) == "end\nend\n"


async def test_a_start_in_it_ends_what_persisted_before(kit: WarmKit) -> None:
    """As a start without persistence does, whichever way the container comes up."""
    spec = kit.spec(Program("cat /kept 2>/dev/null; echo word > /kept"), rootfs_persist=True)
    for persist, log in ((True, ""), (True, "word\n"), (False, "word\n"), (True, "word\n")):
        spec = replace(kit.again(spec), rootfs_persist=persist)
        await kit.waiting(spec)
        handle, way = await started(kit, spec)
        assert way == ("image" if persist else "slot")
        await kit.wait(handle)
        assert kit.log(spec) == log
        await kit.driver.cleanup(spec.machine_id, handle)


@pytest.mark.parametrize("whom", [0, 1], ids=["shim", "init"])
async def test_one_that_died_is_passed_over_and_cleared_away(kit: WarmKit, whom: int) -> None:
    before = kit.picture()
    spec = kit.spec(RUNS)
    container = await waited_for(kit, spec)
    os.kill(processes(container)[whom], signal.SIGKILL)
    await eventually(lambda: not container.is_usable, "that it is known to be dead")
    assert (await started(kit, spec))[1] == "image"
    assert name_of(kit, spec) != container.name
    await eventually(lambda: not container.place.rundir.exists(), "its removal")
    await kit.driver.destroy(spec.machine_id)
    await kit.assert_nothing_left_since(before)


async def test_one_on_layers_that_were_replaced_is_passed_over(kit: WarmKit) -> None:
    """As when an image was removed and pulled again: a mount shows what lay there when it was made."""
    spec = kit.spec(RUNS)
    container = await waited_for(kit, spec)
    layer = container.place.lower[0].resolve()
    old = layer.with_name("old")
    layer.rename(old)
    shutil.copytree(old, layer, symlinks=True)
    assert not container.is_usable
    assert (await started(kit, spec))[1] == "image"
    await kit.begun(spec)
    await kit.driver.cleanup(spec.machine_id, None)
    shutil.rmtree(old)


async def test_what_waited_when_the_worker_was_killed_is_swept(kit: WarmKit) -> None:
    before = kit.picture()
    machine, other = kit.spec(RUNS), kit.spec(RUNS, shape=BIG)
    _, handle = await taken(kit, machine)
    names = {(await waited_for(kit, spec)).name for spec in (machine, other)}
    await forsake(kit)
    assert all((kit.home / "run" / name / "guest.sock").exists() for name in names)
    await kit.renew()
    assert await kit.driver.recover(handle) == Running(handle=handle)
    assert names <= set(await kit.driver.sweep({machine.machine_id}))
    await kit.begun(machine)
    await kit.driver.signal(handle, 15)
    assert (await kit.wait(handle)).exit_code == 0
    await kit.driver.destroy(machine.machine_id)
    await kit.assert_nothing_left_since(before)


async def test_a_start_that_was_cut_off_after_it_took_one_is_cleared_away(kit: WarmKit) -> None:
    """Whose it is stands on disk before anything else is done with it."""
    before = kit.picture()
    spec = kit.spec(RUNS)
    container = await waited_for(kit, spec)
    start = asyncio.ensure_future(kit.driver.start(spec, Marks()))
    link = kit.home / "run" / spec.machine_id
    while not link.is_symlink():  # noqa: ASYNC110 (each turn of the loop counts)
        await asyncio.sleep(0)
    start.cancel()
    await asyncio.wait([start])
    record = rundirs.read_record(container.place.rundir)
    assert record is not None
    assert (record.start_id, record.data["machine"]) == (spec.start_id, spec.machine_id)
    await kit.driver.destroy(spec.machine_id)
    await kit.assert_nothing_left_since(before)


async def test_an_address_that_is_anothers_fails_the_start(kit: WarmKit) -> None:
    before = kit.picture()
    one = kit.spec(RUNS)
    two = kit.spec(RUNS, network=one.network)
    await taken(kit, one)
    await kit.waiting(two)
    with pytest.raises(Conflict, match="routed already"):
        await kit.driver.start(two, Marks())
    for spec in (two, one):
        await kit.driver.destroy(spec.machine_id)
    await kit.assert_nothing_left_since(before)


async def test_a_link_to_a_container_that_is_anothers_by_now_counts_for_nothing(kit: WarmKit) -> None:
    spec, other = kit.spec(RUNS), kit.spec(RUNS)
    _, handle = await taken(kit, spec)
    await kit.begun(spec)
    (kit.home / "run" / other.machine_id).symlink_to(name_of(kit, spec))
    await kit.driver.destroy(other.machine_id)
    await kit.driver.signal(handle, 15)
    assert (await kit.wait(handle)).exit_code == 0


async def test_many_rounds_leave_nothing(kit: WarmKit) -> None:
    before, open_before = kit.picture(), 0
    spec = kit.spec(Program("true"))
    for number in range(ROUNDS):
        _, handle = await taken(kit, spec)
        await kit.wait(handle)
        await kit.driver.cleanup(spec.machine_id, handle)
        spec = kit.again(spec)
        if number == 1:
            await kit.waiting(spec)
            open_before = descriptors()
    await kit.waiting(spec)
    await eventually(lambda: descriptors() <= open_before + DESCRIPTORS_SLACK, "as few descriptors as before")
    await kit.driver.destroy(spec.machine_id)
    await kit.assert_nothing_left_since(before)


async def test_the_host_keeps_its_name(kit: WarmKit) -> None:
    before = os.uname().nodename
    await asyncio.gather(*(kit.start(kit.spec(RUNS, hostname=f"box{n}")) for n in range(4)))
    assert os.uname().nodename == before
    assert await asyncio.to_thread(lambda: os.uname().nodename) == before
