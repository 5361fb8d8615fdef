"""What may be resumed: what this host sealed, unchanged, once, for the very same machine."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from midge.drivers import seal
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.snapshot import FileIdentity, Sealed, Snapshots, What
from midge.drivers.qemu.vm import SUSPENDED_PREFIX
from midge.errors import SnapshotUnusable

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
        await self.snapshots._take_to_disk("m1")
        return self.folder / "memory"


@pytest.fixture
async def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    await made.seal()
    return made


async def test_a_whole_snapshot_is_claimed_from_memory(host: Host) -> None:
    saved = await host.snapshots.claim("m1", WHAT)
    assert (saved.memory, saved.on_disk) == (host.memory, False)
    assert await host.snapshots.saved("m1", "S1") == {"start_id": "S1", "template": "t1"}
    assert await host.snapshots.saved("m1", "S2") is None


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
    await host.snapshots._take_to_disk("m1")
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
