"""Everything about the driver that does not need a processor with virtualisation."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from pathlib import Path

import msgspec
import pytest

from midge.drivers import shim_files
from midge.drivers.base import Exited, Lost, Running
from midge.drivers.firecracker.settings import IoLimits, Limit
from midge.drivers.vmm_user import FIRECRACKER_UID_BASE, slot_uid
from midge.errors import DriverError, MidgeError, NotRunning, NotSupported, SnapshotUnusable
from tests.integration.firecracker.conftest import DEADLINE_S, Host, Marks

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(300)]


async def test_runs_a_machine_to_its_end_and_leaves_nothing(host: Host) -> None:
    spec = host.spec("exit", "3")
    handle = await host.start(spec)
    status = await asyncio.wait_for(host.driver.wait(handle), DEADLINE_S)
    assert (status.exit_code, status.guest_exit_code) == (3, 3)
    await host.driver.cleanup(spec.machine_id, handle)
    assert host.left() == []
    await host.driver.cleanup(spec.machine_id, handle)
    with pytest.raises(NotRunning):
        await host.driver.wait(handle)


async def test_output_is_in_the_log(host: Host) -> None:
    spec = host.spec("say", "hello")
    handle = await host.start(spec)
    await host.driver.kill(handle)
    status = await asyncio.wait_for(host.driver.wait(handle), DEADLINE_S)
    assert status.signal == 9
    assert "hello" in Path(spec.log_path).read_text()


async def test_signal_reaches_the_process(host: Host) -> None:
    handle = await host.start(host.spec())
    await host.driver.signal(handle, 15)
    status = await asyncio.wait_for(host.driver.wait(handle), DEADLINE_S)
    assert (status.exit_code, status.guest_signal) == (143, 15)


async def test_vmm_has_its_own_user_files_and_group(host: Host) -> None:
    await host.start(host.spec())
    root = host.settings.jails / "firecracker" / "m1" / "root"
    [uid] = {(root / name).stat().st_uid for name in ("upper", "run", "run/api.sock", "run/v.sock")}
    [slot] = host.slots.taken.values()
    assert uid == slot_uid(FIRECRACKER_UID_BASE, host.slots.config.tag, slot.number)
    assert {(root / name).stat().st_uid for name in ("lower", "memory", "state")} == {0}
    record = shim_files.read_state(host.settings.rundir / "m1").record
    assert record is not None
    assert record.child_pid in host.cgroups.get("m1").pids()
    assert record.shim_pid not in host.cgroups.get("m1").pids()


async def test_machines_share_the_templates_memory(host: Host) -> None:
    await host.start(host.spec())
    await host.start(host.spec(machine="m2"))
    roots = [host.settings.jails / "firecracker" / machine / "root" for machine in ("m1", "m2")]
    assert len({(root / "memory").stat().st_ino for root in roots}) == 1
    assert len({(root / "upper").stat().st_ino for root in roots}) == 2


async def test_same_start_is_adopted_and_another_one_replaces_it(host: Host) -> None:
    first = await host.start(host.spec())
    pid = _child(host)
    await host.renew()
    assert await host.start(host.spec()) == first
    assert _child(host) == pid
    await host.start(host.spec(start_id="s2"))
    assert _child(host) != pid


async def test_running_machine_is_recovered(host: Host) -> None:
    handle = await host.start(host.spec())
    await host.renew()
    assert isinstance(await host.driver.recover(handle), Running)
    await host.driver.signal(handle, 15)
    assert (await asyncio.wait_for(host.driver.wait(handle), DEADLINE_S)).guest_signal == 15


async def test_exit_that_nobody_saw_is_reported(host: Host) -> None:
    spec = host.spec("exit", "7")
    handle = await host.start(spec)
    await asyncio.wait_for(host.driver.wait(handle), DEADLINE_S)
    await host.renew()
    found = await host.driver.recover(handle)
    assert isinstance(found, Exited)
    assert found.status.exit_code == 7


async def test_machine_without_a_run_directory_is_lost(host: Host) -> None:
    handle = await host.start(host.spec())
    await host.driver.cleanup("m1", handle)
    assert isinstance(await host.driver.recover(handle), Lost)


async def test_vmm_that_does_not_come_up_says_why_and_leaves_nothing(host: Host) -> None:
    jailer = Path(host.settings.jailer)
    text = jailer.read_text()
    await host.driver.prepare(host.spec())
    jailer.write_text(
        text.replace("main(", "sys.argv[1:2] == ['--version'] or sys.exit('no room here')\nmain(")
    )
    with pytest.raises(DriverError, match="no room here"):
        await host.start(host.spec())
    await host.driver.cleanup("m1", None)
    assert host.left() == []


async def test_limits_are_set_once_a_guest_runs(host: Host) -> None:
    limits = IoLimits(bandwidth=Limit(size=1_000_000))
    await host.renew(drive_limits=limits, rx_limits=limits)
    await host.start(host.spec())


async def test_template_is_made_once_for_a_shape(host: Host) -> None:
    await host.driver.prepare(host.spec())
    made = {path.name: path.stat().st_mtime_ns for path in host.settings.templates.iterdir()}
    await host.renew()
    await host.driver.prepare(host.spec())
    assert made == {path.name: path.stat().st_mtime_ns for path in host.settings.templates.iterdir()}


async def test_damaged_template_is_made_anew(host: Host) -> None:
    await host.driver.prepare(host.spec())
    for state in host.settings.templates.glob("*/state"):
        state.chmod(0o600)
        state.write_bytes(b"damaged")
    await host.renew()
    await host.start(host.spec())


# ── suspend and resume ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tracked", [False, True], ids=["full", "diff"])
async def test_suspended_machine_runs_on_after_a_resume(host: Host, tracked: bool) -> None:
    await host.renew(track_dirty_pages=tracked)
    spec = host.spec()
    handle = await host.start(spec)
    uids = set()
    for round in range(2):
        snapshot = await host.driver.suspend(spec, handle)
        await host.driver.cleanup("m1", handle)
        assert host.left() == ["disk", "snapshot"]
        spec = msgspec.structs.replace(spec, start_id=f"again{round}")
        handle = await host.driver.resume(spec, snapshot, Marks())
        assert host.left() == ["run", "jail", "disk", "cgroup", "slot10"]
        # Another slot, so another user, who has to be able to write to the disk that was there.
        root = host.settings.jails / "firecracker" / "m1" / "root"
        uid = slot_uid(FIRECRACKER_UID_BASE, host.slots.config.tag, host.slots.taken["slot10"].number)
        assert {path.stat().st_uid for path in (root, root / "upper", root / "run/api.sock")} == {uid}
        uids.add(uid)
    assert len(uids) == 2
    await host.driver.signal(handle, 15)
    assert (await asyncio.wait_for(host.driver.wait(handle), DEADLINE_S)).guest_signal == 15


async def test_suspend_is_repeatable(host: Host) -> None:
    handle = await host.start(host.spec())
    snapshot = await host.driver.suspend(host.spec(), handle)
    assert await host.driver.suspend(host.spec(), handle) == snapshot
    await host.renew()
    assert await host.driver.suspend(host.spec(), handle) == snapshot


async def test_resume_is_repeatable(host: Host) -> None:
    handle = await host.start(host.spec())
    snapshot = await host.driver.suspend(host.spec(), handle)
    await host.driver.cleanup("m1", handle)
    spec = host.spec(start_id="s2")
    first = await host.driver.resume(spec, snapshot, Marks())
    await host.renew()
    assert await host.driver.resume(spec, snapshot, Marks()) == first


async def test_machine_runs_on_if_it_cannot_be_saved(host: Host) -> None:
    handle = await host.start(host.spec())
    (host.settings.key_file).chmod(0o644)
    with pytest.raises(MidgeError, match="read by others"):
        await host.driver.suspend(host.spec(), handle)
    assert "snapshot" not in host.left()
    assert "draft" not in host.left()
    (host.settings.key_file).chmod(0o600)
    await host.driver.signal(handle, 15)
    assert (await asyncio.wait_for(host.driver.wait(handle), DEADLINE_S)).guest_signal == 15


async def test_worker_that_died_after_a_resume_finds_the_machine_and_drops_the_snapshot(host: Host) -> None:
    snapshot = await _suspended(host)
    folder, copy = host.settings.snapshots / "m1", host.home / "copy"
    shutil.copytree(folder, copy)
    spec = host.spec(start_id="s2")
    await host.driver.resume(spec, snapshot, Marks())
    copy.rename(folder)
    pid = _child(host)
    await host.renew()
    await host.driver.resume(spec, snapshot, Marks())
    assert _child(host) == pid
    assert "snapshot" not in host.left()


async def test_machine_that_is_frozen_for_a_snapshot_can_be_removed(host: Host) -> None:
    handle = await host.start(host.spec())
    await host.cgroups.get("m1").freeze()
    await host.renew()
    await host.driver.cleanup("m1", handle)
    assert host.left() == []


async def test_machine_whose_worker_died_while_saving_runs_on(host: Host) -> None:
    handle = await host.start(host.spec())
    (host.settings.snapshots / ".m1").mkdir()
    await host.cgroups.get("m1").freeze()
    await host.renew()
    assert isinstance(await host.driver.recover(handle), Running)
    await host.driver.signal(handle, 15)
    assert (await asyncio.wait_for(host.driver.wait(handle), DEADLINE_S)).guest_signal == 15


async def test_worker_that_died_after_saving_has_saved(host: Host) -> None:
    handle = await host.start(host.spec())
    snapshot = await host.driver.suspend(host.spec(), handle)
    await host.renew()
    assert isinstance(await host.driver.recover(handle), Exited)
    assert await host.driver.suspend(host.spec(), handle) == snapshot
    await host.driver.cleanup("m1", handle)
    await host.driver.resume(host.spec(start_id="s2"), snapshot, Marks())


async def test_snapshot_that_was_changed_is_refused(host: Host) -> None:
    snapshot = await _suspended(host)
    state = host.settings.snapshots / "m1" / "state"
    state.write_bytes(state.read_bytes().replace(b"running", b"waiting"))
    with pytest.raises(SnapshotUnusable, match=r"changed|size"):
        await host.driver.resume(host.spec(start_id="s2"), snapshot, Marks())


async def test_snapshot_with_a_disk_that_was_written_is_refused(host: Host) -> None:
    snapshot = await _suspended(host)
    with (host.settings.machines / "m1" / "upper.ext4").open("r+b") as disk:
        disk.write(b"x")
    with pytest.raises(SnapshotUnusable, match="upper was"):
        await host.driver.resume(host.spec(start_id="s2"), snapshot, Marks())


async def test_snapshot_of_another_version_is_refused(host: Host) -> None:
    snapshot = await _suspended(host)
    opened = host.driver._opened
    assert opened is not None
    programs, kernel, places = opened
    newer = dataclasses.replace(programs, version=dataclasses.replace(programs.version, text="1.13.0"))
    host.driver._opened = (newer, kernel, places)
    with pytest.raises(SnapshotUnusable, match=r"firecracker was 1.12.1 and is 1.13.0"):
        await host.driver.resume(host.spec(start_id="s2"), snapshot, Marks())


async def test_discarded_snapshot_cannot_be_resumed_and_a_cold_start_works(host: Host) -> None:
    snapshot = await _suspended(host)
    await host.driver.discard_snapshot("m1", snapshot)
    await host.driver.discard_snapshot("m1", snapshot)
    with pytest.raises(SnapshotUnusable):
        await host.driver.resume(host.spec(start_id="s2"), snapshot, Marks())
    await host.driver.cleanup("m1", None)
    assert host.left() == []
    await host.start(host.spec(start_id="s3"))


# ── leftovers ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_sweep_removes_machines_that_nobody_knows(host: Host) -> None:
    await host.start(host.spec())
    await host.start(host.spec(machine="m2"))
    await host.renew()
    removed = await host.driver.sweep({"m2"})
    assert "m1" in removed
    assert host.left("m1") == ["slot11"]
    assert "jail" in host.left("m2")


async def test_sweep_removes_suspended_machines_that_nobody_knows(host: Host) -> None:
    await _suspended(host)
    assert await host.driver.sweep(set()) == ["m1"]
    assert host.left() == []


async def test_destroy_removes_everything(host: Host) -> None:
    await host.start(host.spec())
    await host.driver.destroy("m1")
    assert host.left() == []
    assert not (host.settings.machines / "m1").exists()


async def test_persistent_disk_outlives_a_run(host: Host) -> None:
    spec = host.spec("exit", "0", rootfs_persist=True)
    handle = await host.start(spec)
    inode = (host.settings.machines / "m1" / "upper.ext4").stat().st_ino
    await host.driver.cleanup("m1", handle)
    await host.start(host.spec("run", rootfs_persist=True, start_id="s2"))
    assert (host.settings.machines / "m1" / "upper.ext4").stat().st_ino == inode
    await host.driver.destroy("m1")
    assert host.left() == []


# ── is it usable ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_host_where_no_guest_boots_is_refused_and_not_tried_again(host: Host) -> None:
    jailer, verdict = Path(host.settings.jailer), host.home / "verdict.json"
    text = jailer.read_text()
    verdict.unlink()
    jailer.write_text(text.replace("main(", "sys.argv[1:2] == ['--version'] or sys.exit('no KVM')\nmain("))
    with pytest.raises(NotSupported, match=r"no guest boots under firecracker.*no KVM"):
        await host.make().open()
    jailer.write_text(text)
    with pytest.raises(NotSupported, match="no KVM") as raised:
        await host.make().open()
    assert raised.value.hint.endswith(f"rm {verdict}")
    verdict.unlink()
    again = host.make()
    await again.open()
    await again.open()
    await again.aclose()


async def _suspended(host: Host) -> dict[str, object]:
    handle = await host.start(host.spec())
    snapshot = await host.driver.suspend(host.spec(), handle)
    await host.driver.cleanup("m1", handle)
    return snapshot


def _child(host: Host) -> int:
    record = shim_files.read_state(host.settings.rundir / "m1").record
    assert record is not None
    return record.child_pid
