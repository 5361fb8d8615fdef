"""The same image unpacked by umoci, mounted by overlayfs, merged by us, and read back from erofs: all equal."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from midge.images.store import ImageStore
from midge.testing.images import (
    Entry,
    Layer,
    build_layout,
    busybox_files,
    directory,
    executable,
    hardlink,
    symlink,
)
from tests.integration.images.conftest import needs, run
from tests.unit.images.jail import picture

pytestmark = [pytest.mark.anyio, pytest.mark.root, pytest.mark.slow]

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")

Members = dict[str, bytes | str | Entry]

BOTTOM: Members = {
    "./": directory(0o755, mtime_s=5),
    "etc": directory(mtime_s=100),
    "etc/passwd": "root",
    "etc/gone": "x",
    "tmp": directory(0o1777, mtime_s=7),
    "var": directory(0o755),
    "var/lib": directory(0o700, uid=3, gid=4),
    "var/lib/old": "old",
    "var/opaque": directory(0o711),
    "var/opaque/hidden": "x",
    "dir-to-file": directory(),
    "dir-to-file/x": "x",
    "file-to-dir": "x",
    "dir-to-link": directory(),
    "dir-to-link/x": "x",
    "ping": Entry(data=b"x" * 5000, mode=0o4755, xattrs={"security.capability": CAPABILITY}),
    "a": Entry(data=b"linked", mtime_s=1_600_000_000.25),
    "b": hardlink("a"),
    "c": hardlink("a"),
    "dev": directory(),
    "dev/null": Entry(kind="char", device=(1, 3), mode=0o666),
    "pipe": Entry(kind="fifo"),
    "gone-dir": directory(),
    "gone-dir/x": "x",
    "back": directory(),
    "back/old": "x",
}

MIDDLE: Members = {
    "etc": directory(0o750, mtime_s=200),
    "etc/.wh.gone": "",
    "etc/passwd": "root2",
    "tmp/file": "through an unlisted directory",
    "var/lib/new": executable("x"),
    "var/opaque": directory(0o711),
    "var/opaque/.wh..wh..opq": "",
    "var/opaque/shown": "y",
    "dir-to-file": "now a file",
    "file-to-dir": directory(0o700),
    "file-to-dir/x": "x",
    "dir-to-link": symlink("etc"),
    ".wh.gone-dir": "",
    ".wh.back": "",
    "b": "no longer linked",
}

TOP: Members = {
    "back": directory(0o750, xattrs={"user.a": b"1"}),
    "back/new": "x",
    "var/lib/.wh.old": "",
    "large": os.urandom(300_000),
    "empty": "",
}

HARD: list[Layer] = [BOTTOM, MIDDLE, TOP]


def seen(root: Path) -> dict[str, tuple[object, ...]]:
    """As `picture`, without what cannot agree: times of directories (umoci gives unlisted ones the present)."""
    found = picture(root)
    return {
        path: (*value[:3], 0 if int(str(value[0])) & 0o170000 == 0o040000 else value[3], *value[4:])
        for path, value in found.items()
    }


MOUNT_AND_LOOK = """
import os, pickle, subprocess, sys
from pathlib import Path
from tests.integration.images.test_equivalence import seen
place, options = sys.argv[1], sys.argv[2:]
subprocess.run(["mount", *options, place], check=True)
sys.stdout.buffer.write(pickle.dumps(seen(Path(place))))
"""


def mounted(place: Path, *options: str) -> dict[str, tuple[object, ...]]:
    """What a mount shows; it lives in a mount namespace of its own and goes with it."""
    place.mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", MOUNT_AND_LOOK, str(place), *options]
    done = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[3])
    shown: dict[str, tuple[object, ...]] = pickle.loads(done.stdout)
    return shown


@pytest.mark.parametrize("name", ["hard", "busybox"])
async def test_all_forms_of_an_image_are_equal(tmp_path: Path, name: str) -> None:
    needs("umoci", "unshare", "mkfs.erofs", "busybox")
    layers: list[Layer] = HARD if name == "hard" else [busybox_files()]
    layout = build_layout(tmp_path / "layout", layers=layers, tag="t")
    await run("umoci", "unpack", "--image", f"{layout}:t", tmp_path / "umoci")
    expected = seen(tmp_path / "umoci" / "rootfs")
    async with ImageStore(tmp_path / "store") as store:
        [image] = await store.import_path(layout)
        disk = await store.erofs(image.digest)
        assert mounted(tmp_path / "erofs", "-o", "ro,loop", str(disk)) == expected
        dirs = await store.layer_dirs(image.digest)
        (tmp_path / "empty").mkdir()
        lower = ":".join(map(str, [*dirs, tmp_path / "empty"]))
        assert (
            mounted(tmp_path / "overlay", "-t", "overlay", "-o", f"ro,lowerdir={lower}", "none") == expected
        )


async def test_overlayfs_of_the_bare_layers_is_equal_too(tmp_path: Path) -> None:
    needs("umoci", "unshare")
    parents: Members = {
        "tmp": directory(0o1777),
        "var": directory(),
        "var/lib": directory(0o700, uid=3, gid=4),
    }
    listed: list[Layer] = [BOTTOM, parents | MIDDLE]
    layout = build_layout(tmp_path / "layout", layers=listed, tag="t")
    await run("umoci", "unpack", "--image", f"{layout}:t", tmp_path / "umoci")
    async with ImageStore(tmp_path / "store") as store:
        [image] = await store.import_path(layout)
        dirs = await store.layer_dirs(image.digest)
        assert len(dirs) == 2
        options = ("-t", "overlay", "-o", f"ro,lowerdir={dirs[0]}:{dirs[1]}", "none")
        assert mounted(tmp_path / "overlay", *options) == seen(tmp_path / "umoci" / "rootfs")


async def test_disk_is_reproducible_and_of_fixed_size(tmp_path: Path) -> None:
    needs("mkfs.erofs")
    layout = build_layout(tmp_path / "layout", layers=HARD, tag="t")
    heads = []
    for name in ("one", "two"):
        async with ImageStore(tmp_path / name) as store:
            [image] = await store.import_path(layout)
            disk = await store.erofs(image.digest)
            assert await store.erofs(image.digest) == disk
            assert disk.stat().st_size == 32 << 30
            assert disk.stat().st_blocks * 512 < 4 << 20
            with disk.open("rb") as file:
                heads.append(file.read(4 << 20))
            assert [path.name for path in (tmp_path / name / "tmp").iterdir()] == []
    assert heads[0] == heads[1]


async def test_compressed_disk(tmp_path: Path) -> None:
    needs("mkfs.erofs")
    layout = build_layout(tmp_path / "layout", layers=[{"zeros": bytes(1 << 20)}], tag="t")
    async with ImageStore(tmp_path / "store", compression="lz4") as store:
        [image] = await store.import_path(layout)
        disk = await store.erofs(image.digest)
        assert disk.stat().st_blocks * 512 < 100_000
