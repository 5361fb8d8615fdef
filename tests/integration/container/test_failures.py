"""What goes wrong around a container, and what is left then: nothing, and a reason."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from midge.drivers import rundir as rundirs
from midge.drivers.base import Exited, Handle
from midge.drivers.shim_files import ShimRecord, read_state
from midge.errors import DriverError, ImageNotFound, MidgeError, OutOfSpace, SnapshotUnusable
from midge.machine.spec import MachineSpec
from midge.sys.syscalls import LINUX
from tests.contract.drivers.kit import RUNS, STUBBORN, Kit, Marks, eventually

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.container,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


async def started(kit: Kit, spec: MachineSpec) -> tuple[Handle, ShimRecord]:
    """A running machine and its processes, once the shim knows them."""
    handle = await kit.start(spec)
    await kit.begun(spec)
    rundir = kit.home / "run" / spec.machine_id

    def known() -> bool:
        record = read_state(rundir).record
        return record is not None and record.child_pid > 0

    await eventually(known, "pid of the container")
    record = read_state(rundir).record
    assert record is not None
    return handle, record


async def test_a_machine_does_not_outlive_its_shim(kit: Kit) -> None:
    before = kit.picture()
    spec = kit.spec(STUBBORN)
    handle, record = await started(kit, spec)
    os.kill(record.shim_pid, signal.SIGKILL)
    status = await kit.wait(handle)
    assert (status.exit_code, status.signal) == (137, 9)
    assert status.error
    await eventually(lambda: not record.child.is_alive(), "end of the container")
    await kit.driver.cleanup(spec.machine_id, handle)
    await kit.assert_nothing_left_since(before)


async def test_the_next_worker_sees_that_a_shim_died(kit: Kit) -> None:
    spec = kit.spec(STUBBORN)
    handle, record = await started(kit, spec)
    await kit.renew()
    os.kill(record.shim_pid, signal.SIGKILL)
    await eventually(lambda: not record.shim.is_alive(), "end of the shim")
    found = await kit.driver.recover(handle)
    assert isinstance(found, Exited)
    assert found.status.exit_code == 137


async def test_a_container_killed_from_outside_is_reported_with_the_signal(kit: Kit) -> None:
    before = kit.picture()
    spec = kit.spec(STUBBORN)
    handle, record = await started(kit, spec)
    os.kill(record.child_pid, signal.SIGKILL)
    status = await kit.wait(handle)
    assert (status.exit_code, status.signal, status.guest_exit_code) == (137, 9, None)
    assert not status.oom_killed
    await kit.driver.cleanup(spec.machine_id, handle)
    await kit.assert_nothing_left_since(before)


async def test_a_signal_to_init_from_outside_reaches_the_process(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    handle, record = await started(kit, spec)
    os.kill(record.child_pid, signal.SIGTERM)
    assert (await kit.wait(handle)).exit_code == 0


async def test_a_frozen_machine_that_died_cannot_be_resumed(kit: Kit) -> None:
    before = kit.picture()
    spec = kit.spec(RUNS)
    handle, record = await started(kit, spec)
    snapshot = await kit.driver.suspend(spec, handle)
    await kit.driver.cleanup(spec.machine_id, handle)
    os.kill(record.shim_pid, signal.SIGKILL)
    await eventually(lambda: not record.shim.is_alive(), "end of the shim")
    with pytest.raises(SnapshotUnusable):
        await kit.driver.resume(kit.again(spec), snapshot, Marks())
    await kit.driver.discard_snapshot(spec.machine_id, snapshot)
    await kit.driver.cleanup(spec.machine_id, None)
    await kit.assert_nothing_left_since(before)


async def test_a_start_finds_its_way_after_the_run_directory_was_lost(kit: Kit) -> None:
    """As when /run was emptied by hand: no record of a container that still runs."""
    spec = kit.spec(RUNS)
    _, record = await started(kit, spec)
    await kit.renew()
    rundir = (kit.home / "run" / spec.machine_id).resolve()
    lost = rundirs.read_record(rundir)
    shutil.rmtree(rundir)
    other = kit.spec(RUNS, spec.machine_id, network=kit.spec(RUNS, "other").network)
    handle = await kit.start(other)
    await eventually(lambda: not record.child.is_alive(), "end of the old container")
    await eventually(lambda: kit.log(other).count("begun") == 2, "the new one's trap")
    await kit.driver.signal(handle, 15)
    assert (await kit.wait(handle)).exit_code == 0
    # A worker that was started anew would find the slot of the lost run in its sweep; this pool knows it still.
    assert kit.net is not None and lost is not None
    await kit.net.give_back(await kit.net.adopt(lost.slot))


# What can be seen of a start, in this order; each by the run directory and the phases that are over.
MOMENTS: dict[str, Callable[[Path, list[str]], bool]] = {
    "asked for": lambda rundir, phases: True,
    "recorded": lambda rundir, phases: rundir.is_symlink(),
    "shim listens": lambda rundir, phases: (rundir / "guest.sock").exists(),
    "launched": lambda rundir, phases: "launch" in phases,
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_start_that_is_given_up_leaves_nothing(kit: Kit, moment: str) -> None:
    spec = kit.spec(RUNS)
    await kit.driver.prepare(spec)
    before = kit.picture()
    marks = Marks()
    start = asyncio.create_task(kit.driver.start(spec, marks))
    await asyncio.sleep(0)
    while not MOMENTS[moment](kit.home / "run" / spec.machine_id, marks.phases):
        assert not start.done()
        await asyncio.sleep(0)  # each turn of the loop counts
    start.cancel()
    await asyncio.wait([start])
    assert start.cancelled()
    await kit.driver.cleanup(spec.machine_id, None)
    await kit.assert_nothing_left_since(before)


async def test_a_layer_that_is_gone_is_told_by_name(kit: Kit, cache: Path) -> None:
    spec = kit.spec(RUNS)
    layer = next((cache / "images" / "l").iterdir())
    hidden = layer.with_name("hidden")
    layer.rename(hidden)
    try:
        with pytest.raises(ImageNotFound, match="gone"):
            await kit.driver.start(spec, Marks())
    finally:
        hidden.rename(layer)
    handle = await kit.start(kit.again(spec))
    await kit.driver.cleanup(spec.machine_id, handle)


async def test_a_full_disk_fails_the_start_and_says_so(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    await kit.driver.prepare(spec)
    layers = kit.home / "layers"
    LINUX.mount("tmpfs", layers, "tmpfs", 0, "size=64k,nr_inodes=3")
    try:
        (layers / "other").touch()
        with pytest.raises(OutOfSpace) as caught:
            await kit.driver.start(spec, Marks())
        assert caught.value.hint
        await kit.driver.cleanup(spec.machine_id, None)
    finally:
        LINUX.umount(layers)


@pytest.fixture
def broken_runtime(kit: Kit) -> Path:
    """A runc that knows its version and nothing else."""
    program = kit.home / "runc"
    program.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo "runc version 0" && exit\n'
        'echo \'time="t" level=error msg="runc run failed: the moon is full"\' >&2\n'
        "exit 1\n"
    )
    program.chmod(0o755)
    return program


async def test_the_runtimes_own_words_are_in_the_error(kit: Kit, broken_runtime: Path) -> None:
    before = kit.picture()
    await kit.reconfigure(runtime=str(broken_runtime))
    spec = kit.spec(RUNS)
    with pytest.raises(DriverError, match="the moon is full"):
        await kit.driver.start(spec, Marks())
    await kit.driver.cleanup(spec.machine_id, None)
    await kit.assert_nothing_left_since(before)


async def test_a_missing_runtime_is_not_supported_and_says_what_to_install(kit: Kit) -> None:
    with pytest.raises(MidgeError) as caught:
        await kit.reconfigure(runtime="no-such-runtime")
    assert "apt-get" in caught.value.hint
    await kit.reconfigure(runtime="runc")


async def test_a_root_mounted_on_the_host_is_unmounted_again(kit: Kit) -> None:
    await kit.reconfigure(mount_root="host")
    before = kit.picture()
    spec = kit.spec(RUNS)
    handle, _ = await started(kit, spec)
    assert any("overlay" in mount for mount in kit.picture().mount)
    await kit.renew()
    await kit.driver.cleanup(spec.machine_id, handle)
    await kit.assert_nothing_left_since(before)


async def test_failed_starts_leave_no_zombies(kit: Kit, broken_runtime: Path) -> None:
    await kit.reconfigure(runtime=str(broken_runtime))
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    spec = kit.spec(RUNS)
    with pytest.raises(DriverError):
        await kit.driver.start(spec, Marks())
    await kit.driver.cleanup(spec.machine_id, None)
    await eventually(lambda: set(children.read_text().split()) <= before, "the end of the shim")
