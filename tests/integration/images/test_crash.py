"""kill -9 in the middle of a pull, an unpack, a build: the next store goes on and nothing is left over."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from midge.errors import OutOfSpace
from midge.images.store import ImageStore
from midge.testing.images import build_layout
from tests.deadlines import PATIENCE_S
from tests.integration.images.conftest import needs, push, run

pytestmark = [pytest.mark.anyio, pytest.mark.root, pytest.mark.slow]

# It stands still where it is to be killed, so that whoever does it is never too late.
WORKER = """
import asyncio, signal, sys, threading
from pathlib import Path
from midge.images.store import ImageStore
from tests.integration.images import test_crash
moment = getattr(test_crash, sys.argv[3])
def stand_still(event, args):
    if event in ("open", "os.mkdir", "os.rename") and moment(Path(sys.argv[1])):
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
async def main():
    sys.addaudithook(stand_still)
    async with ImageStore(Path(sys.argv[1])) as store:
        image = await store.ensure(sys.argv[2])
        await store.erofs(image.digest)
asyncio.run(main())
"""


def files(count: int, size: int) -> dict[str, bytes | str]:
    """Content that takes a while: incompressible, in many files."""
    source = random.Random(count)
    return {f"d{n % 50}/f{n}": source.randbytes(size) for n in range(count)}


def unpacking(root: Path) -> bool:
    return any(path.name.startswith("layer-") for path in (root / "tmp").glob("*"))


def building(root: Path) -> bool:
    return any((folder / "disk").exists() for folder in (root / "tmp").glob("rootfs-*"))


def downloading(root: Path) -> bool:
    with suppress(FileNotFoundError):  # one that is complete gets another name
        return any(path.stat().st_size > 0 for path in (root / "blobs/sha256").glob("*.partial"))
    return False


def kill_at(moment: Callable[[Path], bool], root: Path, reference: str) -> None:
    """Starts a process that pulls and builds, and kills it when it is in the middle of something."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root), reference, moment.__name__],
        cwd=Path(__file__).parents[3],
    )
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not moment(root):
            assert process.poll() is None, "the worker was done before it could be killed"
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    "moment", [downloading, unpacking, building], ids=lambda moment: str(moment.__name__)
)
async def test_killed_process_is_picked_up_from(
    registry: str, tmp_path: Path, moment: Callable[[Path], bool]
) -> None:
    needs("mkfs.erofs")
    reference = f"{registry}/crash/{moment.__name__}:1"
    push(build_layout(tmp_path / "x", layers=[files(2000, 12_000), files(50, 100)], tag="t"), reference)
    root = tmp_path / "store"
    await asyncio.to_thread(kill_at, moment, root, reference)
    async with ImageStore(root) as store:
        assert list((root / "tmp").iterdir()) == []
        image = await store.ensure(reference)
        disk = await store.erofs(image.digest)
        assert disk.stat().st_size == 32 << 30
        assert list((root / "tmp").iterdir()) == []
        assert list((root / "blobs/sha256").glob("*.partial")) == []
        assert len(list((root / "layers").iterdir())) == 2
        assert (await store.prune(in_use=[])).freed_bytes == 0
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("size", ["4m", "7m"])
async def test_full_disk_leaves_nothing_half_made(
    tmp_path: Path, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 MiB end while unpacking, 7 MiB while the disk image is written."""
    needs("mkfs.erofs")
    monkeypatch.setattr("midge.images.fs.RESERVED_FREE_BYTES", 0)
    monkeypatch.setattr("midge.images.views.require_space", lambda *_: None)
    monkeypatch.setattr("midge.images.installer.require_space", lambda *_: None)
    layout = build_layout(tmp_path / "x", layers=[files(50, 100_000)], tag="t")
    root = tmp_path / "store"
    root.mkdir()
    await run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", root)
    try:
        async with ImageStore(root) as store:
            with pytest.raises(OutOfSpace, match="no space left"):
                [image] = await store.import_path(layout)
                await store.erofs(image.digest)
            assert list((root / "tmp").iterdir()) == []
            assert list((root / "rootfs").iterdir()) == []
    finally:
        await run("umount", root)
    assert not os.path.ismount(root)
