"""What may be resumed: what this host sealed, unchanged, once, for the very same machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from midge.drivers import seal
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.snapshot import Snapshots
from midge.drivers.qemu.snapshot_disk import keep_taking, take
from midge.drivers.qemu.snapshot_files import FileIdentity, Kept, Moved, Sealed, What
from midge.drivers.qemu.vm import SUSPENDED_PREFIX
from midge.errors import SnapshotUnusable
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio
WHAT = What(template="t1", image="sha256:a", start_id="S1")


class Host:
    """A host with one suspended machine, its memory still on tmpfs."""

    def __init__(self, root: Path) -> None:
        places = ["rundir", "memory_dir", "layers", "machines", "templates", "kernels", "blanks"]
        self.settings = QemuSettings(**{name: root / name for name in places}, seal_key=root / "key")
        for name in places:
            (root / name).mkdir()
        self.folder = self.settings.machines / "m1" / "suspend"
        self.folder.mkdir(parents=True)
        self.memory = self.settings.memory_dir / f"{SUSPENDED_PREFIX}m1"
        self.memory.write_bytes(b"memory" * 1000)
        (self.folder / "state").write_bytes(b"devices")
        (self.folder / "layer").write_bytes(b"disk")
        self.snapshots = Snapshots(self.settings)

    async def seal(self) -> None:
        sealed = Sealed(
            what=WHAT,
            memory=FileIdentity.of(self.memory),
            layer=FileIdentity.of(self.folder / "layer"),
            suspended_at_ns=1,
        )
        key = seal.host_key(self.settings.seal_key)
        await seal.seal(key, self.folder, ["state"], msgspec.to_builtins(sealed))

    async def take_to_disk(self) -> Path:
        await take(self.snapshots, "m1")
        return self.folder / "memory"


@pytest.fixture
async def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    await made.seal()
    return made


async def test_a_whole_snapshot_is_claimed_from_memory(host: Host) -> None:
    assert await host.snapshots.saved("m1", "S1") == {"start_id": "S1", "template": "t1"}
    assert await host.snapshots.saved("m1", "S2") is None
    saved = await host.snapshots.claim("m1", WHAT)
    assert (saved.memory, saved.on_disk) == (host.memory, False)
    assert await host.snapshots.saved("m1", "S1") is None, "it is used up"


async def test_and_from_disk_once_it_is_there(host: Host) -> None:
    on_disk = await host.take_to_disk()
    assert not host.memory.exists()
    saved = await host.snapshots.claim("m1", WHAT)
    assert (saved.memory, saved.on_disk) == (on_disk, True)
    assert on_disk.read_bytes() == b"memory" * 1000


async def test_it_is_good_for_one_resume(host: Host) -> None:
    await host.snapshots.claim("m1", WHAT)
    with pytest.raises(SnapshotUnusable, match="begun before"):
        await host.snapshots.claim("m1", WHAT)
    await take(host.snapshots, "m1")
    assert host.memory.exists(), "a snapshot in use is not moved"


@pytest.mark.parametrize("name", ["state", seal.SEAL_NAME])
async def test_tampered_state_or_seal_is_not_loaded(host: Host, name: str) -> None:
    content = bytearray((host.folder / name).read_bytes())
    content[5] ^= 1
    (host.folder / name).write_bytes(content)
    with pytest.raises(SnapshotUnusable):
        await host.snapshots.claim("m1", WHAT)


async def test_tampered_memory_is_not_loaded(host: Host) -> None:
    with host.memory.open("r+b") as file:
        file.write(b"M")
    with pytest.raises(SnapshotUnusable, match="has changed since the suspend"):
        await host.snapshots.claim("m1", WHAT)


async def test_memory_on_disk_counts_by_content_where_its_times_differ(host: Host) -> None:
    on_disk = await host.take_to_disk()
    os.utime(on_disk, ns=(1, 1))
    await host.snapshots.claim("m1", WHAT)
    (host.folder / "used").unlink()
    on_disk.write_bytes(b"Memory" * 1000)
    with pytest.raises(SnapshotUnusable, match="has changed since the suspend"):
        await host.snapshots.claim("m1", WHAT)


async def test_memory_that_is_gone_is_said(host: Host) -> None:
    host.memory.unlink()
    with pytest.raises(SnapshotUnusable, match="is gone"):
        await host.snapshots.claim("m1", WHAT)


@pytest.mark.parametrize(
    ("field", "said"),
    [("template", "kernel, VMM, CPU model or shape"), ("image", "image"), ("start_id", "run")],
)
async def test_what_was_saved_by_something_else_is_not_loaded(host: Host, field: str, said: str) -> None:
    with pytest.raises(SnapshotUnusable, match=f"another {said}"):
        await host.snapshots.claim("m1", msgspec.structs.replace(WHAT, **{field: "other"}))
    await host.snapshots.claim("m1", WHAT)


async def test_another_hosts_key_does_not_open_it(host: Host) -> None:
    host.settings.seal_key.unlink()
    with pytest.raises(SnapshotUnusable, match="not sealed by this host"):
        await Snapshots(host.settings).claim("m1", WHAT)


async def test_discard_and_sweep_leave_nothing(host: Host) -> None:
    assert await host.snapshots.sweep({"m1"}) == []
    assert len(await host.snapshots.sweep(set())) == 2
    await host.snapshots.discard("m1")
    assert list(host.settings.machines.iterdir()) == list(host.settings.memory_dir.iterdir()) == []


async def test_what_is_left_of_a_used_snapshot_goes_at_once_by_name_and_then_from_the_disk(
    host: Host,
) -> None:
    host.snapshots.consumed("m1")
    assert not host.folder.parent.exists()
    host.memory.unlink()
    keeper = asyncio.create_task(keep_taking(host.snapshots))
    async with asyncio.timeout(PATIENCE_S):
        while list(host.settings.machines.iterdir()):  # noqa: ASYNC110 (files make no sound)
            await asyncio.sleep(0.01)
    keeper.cancel()
    host.snapshots.consumed("m1")


async def test_what_a_dead_worker_had_put_aside_is_swept(host: Host) -> None:
    host.snapshots.consumed("m1")
    assert len(await Snapshots(host.settings).sweep({"m1"})) == 1


# ── with a parked VM ──────────────────────────────────────────────────────────────────────────────────────────────


def kept(host: Host, memory: Path | None = None) -> Kept:
    """As a suspend leaves it that keeps its VM."""
    host.snapshots._held.add("m1")
    files = (
        (memory or host.memory, host.settings.memory_dir / "s3"),
        (
            host.folder / "layer",
            host.settings.layers / "s3",
        ),
    )
    moved = [Moved(home, path, FileIdentity.of(path)) for path, home in files]
    return Kept(what=WHAT, memory=moved[0], layer=moved[1], uid=os.getuid())


@pytest.mark.parametrize("copied", [False, True])
async def test_a_parked_vm_gets_its_files_back(host: Host, copied: bool) -> None:
    files = kept(host)
    inode = host.memory.stat().st_ino
    if copied:
        await host.take_to_disk()
        assert host.memory.exists(), "a VM has it open"
    await host.snapshots.claim_held("m1", files, WHAT)
    assert (host.settings.memory_dir / "s3").stat().st_ino == inode
    assert (host.settings.layers / "s3").read_bytes() == b"disk"
    with pytest.raises(SnapshotUnusable, match="begun before"):
        await host.snapshots.claim("m1", WHAT)


async def test_memory_on_tmpfs_is_freed_once_the_parked_vm_has_ended(host: Host) -> None:
    kept(host)
    on_disk = await host.take_to_disk()
    await host.snapshots.released("m1")
    assert not host.memory.exists()
    assert (await host.snapshots.claim("m1", WHAT)).memory == on_disk


async def test_memory_that_is_not_on_disk_yet_stays_when_the_parked_vm_ends(host: Host) -> None:
    kept(host)
    await host.snapshots.released("m1")
    assert host.memory.exists()
    await host.take_to_disk()
    assert not host.memory.exists()


async def test_a_copy_on_disk_counts_where_a_dead_worker_left_both(host: Host) -> None:
    kept(host)
    on_disk = await host.take_to_disk()
    after = Snapshots(host.settings)
    await take(after, "m1")
    assert not host.memory.exists(), "nobody has it open"
    assert (await after.claim("m1", WHAT)).memory == on_disk


@pytest.mark.parametrize("which", ["memory", "layer"])
async def test_files_that_were_written_to_are_not_a_parked_vms(host: Host, which: str) -> None:
    files = kept(host)
    moved = files.memory if which == "memory" else files.layer
    moved.path.write_bytes(moved.path.read_bytes())
    with pytest.raises(SnapshotUnusable, match="has changed"):
        await host.snapshots.claim_held("m1", files, WHAT)
    assert not (host.folder / "used").exists()


async def test_a_parked_vm_of_another_run_is_not_taken(host: Host) -> None:
    with pytest.raises(SnapshotUnusable, match="another run"):
        await host.snapshots.claim_held("m1", kept(host), msgspec.structs.replace(WHAT, start_id="S2"))


async def test_a_suspend_that_is_not_sealed_is_taken_back(host: Host) -> None:
    vms = Homes(host.settings)
    (host.folder / seal.SEAL_NAME).unlink()
    for _ in range(2):
        host.snapshots.take_back("m1", vms, "s3", os.getuid())  # type: ignore[arg-type]  # all it asks for are names
        assert vms.memory("s3").read_bytes() == b"memory" * 1000
        assert vms.layer("s3").read_bytes() == b"disk"
        assert not host.folder.exists()


async def test_files_of_a_resume_that_has_begun_are_not_taken_back(host: Host) -> None:
    await host.snapshots.claim("m1", WHAT)
    host.snapshots.take_back("m1", Homes(host.settings), "s3", os.getuid())  # type: ignore[arg-type]  # as above
    assert host.memory.exists()


class Homes:
    """Where a VM has its files: `VmMaker`, as far as a snapshot asks."""

    def __init__(self, settings: QemuSettings) -> None:
        self._settings = settings

    def memory(self, name: str) -> Path:
        return self._settings.memory_dir / name

    def memory_on_disk(self, name: str) -> Path:
        return self._settings.layers / f"{name}.mem"

    def layer(self, name: str) -> Path:
        return self._settings.layers / name
