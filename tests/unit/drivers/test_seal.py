"""Seals: what verifies is what was sealed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from midge.drivers import seal
from midge.errors import DriverError, SnapshotUnusable

pytestmark = pytest.mark.anyio
NAMES = ["memory", "state"]
KEY = b"k" * seal.KEY_BYTES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    with (folder / "memory").open("wb") as memory:
        memory.truncate(3 * seal.SEGMENT_BYTES + 12_345)
        os.pwrite(memory.fileno(), b"begin", 0)
        os.pwrite(memory.fileno(), b"middle", seal.SEGMENT_BYTES + 5_000)
        os.pwrite(memory.fileno(), b"end", 3 * seal.SEGMENT_BYTES + 12_342)
    (folder / "state").write_bytes(b"registers")
    return folder


async def test_gives_the_metadata_back(folder: Path) -> None:
    await seal.seal(KEY, folder, NAMES, {"version": "1.10", "list": [1, None]})
    assert await seal.verify(KEY, folder, NAMES) == {"version": "1.10", "list": [1, None]}


@pytest.mark.parametrize("position", [0, 1, seal.SEGMENT_BYTES + 5_003, 2 * seal.SEGMENT_BYTES + 7])
async def test_notices_a_changed_byte_in_data_and_in_holes(folder: Path, position: int) -> None:
    await seal.seal(KEY, folder, NAMES, {})
    with (folder / "memory").open("r+b") as memory:
        memory.seek(position)
        memory.write(b"X")
    with pytest.raises(SnapshotUnusable, match="changed"):
        await seal.verify(KEY, folder, NAMES)


async def test_content_counts_and_not_how_it_is_stored(folder: Path) -> None:
    os.truncate(folder / "memory", 5 * seal.BLOCK_BYTES)
    await seal.seal(KEY, folder, NAMES, {})
    dense = (folder / "memory").read_bytes()
    (folder / "memory").unlink()
    (folder / "memory").write_bytes(dense)
    await seal.verify(KEY, folder, NAMES)


async def test_zeros_moved_elsewhere_are_a_change(folder: Path) -> None:
    await seal.seal(KEY, folder, NAMES, {})
    with (folder / "memory").open("r+b") as memory:
        memory.write(bytes(5))
        memory.seek(seal.BLOCK_BYTES)
        memory.write(b"begin")
    with pytest.raises(SnapshotUnusable, match="changed"):
        await seal.verify(KEY, folder, NAMES)


async def test_notices_another_size(folder: Path) -> None:
    await seal.seal(KEY, folder, NAMES, {})
    os.truncate(folder / "memory", 3 * seal.SEGMENT_BYTES + 12_346)
    with pytest.raises(SnapshotUnusable, match="size"):
        await seal.verify(KEY, folder, NAMES)


async def test_notices_changed_metadata(folder: Path) -> None:
    await seal.seal(KEY, folder, NAMES, {"machine": "a"})
    sealed = (folder / seal.SEAL_NAME).read_bytes()
    (folder / seal.SEAL_NAME).write_bytes(sealed.replace(b'"a"', b'"b"'))
    with pytest.raises(SnapshotUnusable, match="not sealed by this host"):
        await seal.verify(KEY, folder, NAMES)


async def test_notices_another_hosts_key(folder: Path) -> None:
    await seal.seal(KEY, folder, NAMES, {})
    with pytest.raises(SnapshotUnusable, match="not sealed by this host"):
        await seal.verify(b"j" * seal.KEY_BYTES, folder, NAMES)


@pytest.mark.parametrize("name", ["memory", seal.SEAL_NAME])
async def test_notices_a_missing_file(folder: Path, name: str) -> None:
    await seal.seal(KEY, folder, NAMES, {})
    (folder / name).unlink()
    with pytest.raises(SnapshotUnusable, match="incomplete"):
        await seal.verify(KEY, folder, NAMES)


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\nabc\n", b"\xff" * 100_000])
async def test_takes_no_nonsense_for_a_seal(folder: Path, content: bytes) -> None:
    (folder / seal.SEAL_NAME).write_bytes(content)
    with pytest.raises(SnapshotUnusable):
        await seal.verify(KEY, folder, NAMES)


async def test_follows_no_links(folder: Path) -> None:
    await seal.seal(KEY, folder, NAMES, {})
    (folder / "state").rename(folder / "elsewhere")
    (folder / "state").symlink_to("elsewhere")
    with pytest.raises(SnapshotUnusable):
        await seal.verify(KEY, folder, NAMES)


async def test_an_earlier_seal_stays_until_the_next_is_whole(folder: Path) -> None:
    await seal.seal(KEY, folder, NAMES, {"which": "first"})
    with pytest.raises(DriverError):
        await seal.seal(KEY, folder, [*NAMES, "missing"], {"which": "second"})
    assert await seal.verify(KEY, folder, NAMES) == {"which": "first"}
    await seal.seal(KEY, folder, NAMES, {"which": "third"})
    assert await seal.verify(KEY, folder, NAMES) == {"which": "third"}


async def test_what_is_not_there_cannot_be_sealed(folder: Path) -> None:
    await seal.seal(KEY, folder, NAMES, {})
    (folder / "state").unlink()
    with pytest.raises(DriverError, match="cannot seal"):
        await seal.seal(KEY, folder, NAMES, {})
    with pytest.raises(SnapshotUnusable):
        await seal.verify(KEY, folder, NAMES)


def test_key_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "seal.key"
    key = seal.host_key(path)
    assert seal.host_key(path) == key
    assert len(key) == seal.KEY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    seal.host_key(path)
    path.chmod(0o640)
    with pytest.raises(DriverError, match="read by others"):
        seal.host_key(path)


def test_damaged_key_is_refused_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    path.touch(mode=0o600)
    with pytest.raises(DriverError, match="damaged"):
        seal.host_key(path)
    assert path.read_bytes() == b""


async def test_a_seal_that_was_not_forced_to_disk_is_as_good(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    await seal.seal(KEY, folder, NAMES, {"which": "one"}, sync=False)
    assert synced == []
    assert await seal.verify(KEY, folder, NAMES) == {"which": "one"}
    await seal.seal(KEY, folder, NAMES, {"which": "two"})
    assert len(synced) == len(NAMES) + 2, "the files, the seal and the folder"
