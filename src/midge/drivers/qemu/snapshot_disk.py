"""Takes the memory of suspended machines from tmpfs to disk, where it is durable and costs nobody anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from pathlib import Path

import msgspec
import structlog

from midge.drivers import disks, seal
from midge.drivers.qemu.snapshot import Snapshots
from midge.drivers.qemu.snapshot_files import LAYER, MEMORY, USED, FileIdentity
from midge.drivers.qemu.vm import SUSPENDED_PREFIX
from midge.errors import MidgeError, chain

_log = structlog.get_logger("midge.qemu")


async def keep_taking(snapshots: Snapshots) -> None:
    """One machine after another, and removes what is left of used snapshots, until cancelled.

    Begins with what an earlier worker has left on tmpfs.
    """
    for hot in snapshots.settings.memory_dir.glob(f"{SUSPENDED_PREFIX}*"):
        snapshots.to_disk.setdefault(hot.name.removeprefix(SUSPENDED_PREFIX))
    while True:
        while snapshots.gone:
            await asyncio.to_thread(_remove, snapshots.gone[0])
            snapshots.gone.popleft()
        if not snapshots.to_disk:
            snapshots.wake.clear()
            await snapshots.wake.wait()
            continue
        machine_id = next(iter(snapshots.to_disk))
        # Before it is done: a machine that is resumed and suspended again meanwhile asks anew.
        del snapshots.to_disk[machine_id]
        try:
            await take(snapshots, machine_id)
        except FileNotFoundError:
            continue  # resumed meanwhile, and maybe suspended again
        except (MidgeError, OSError) as error:
            if not (snapshots.folder(machine_id) / seal.SEAL_NAME).exists():
                continue  # resumed meanwhile
            # It stays in memory, where it is as good until the host restarts.
            _log.warning("snapshot stays in memory", machine=machine_id, error=chain(error))


async def take(snapshots: Snapshots, machine_id: str) -> None:
    """Copies one machine's memory, or syncs it where it is on disk already, and seals it anew as durable.

    Raises:
        MidgeError, OSError: it stays where it is, under the seal it has.
    """
    hot, folder = snapshots.hot(machine_id), snapshots.folder(machine_id)
    sealed = await snapshots.verify(folder)
    if sealed.digest:  # done before; the worker died, or was shut down, before the original was removed
        if not snapshots.is_held(machine_id):
            await snapshots.released(machine_id)
        return
    before = sealed.memory
    draft = folder / "memory.new"
    source = hot if hot.exists() else folder / MEMORY
    try:
        if source == hot:
            await asyncio.to_thread(_copy_synced, hot, draft)
        else:
            await asyncio.to_thread(_sync, source)
        await asyncio.to_thread(_sync, folder / LAYER)
        digest = await asyncio.to_thread(seal.digest_of, draft if source == hot else source)
        async with snapshots.lock(machine_id):
            if not source.exists() or (folder / USED).exists():
                return  # resumed meanwhile
            sealed = await snapshots.verify(folder)
            if not sealed.memory == before == FileIdentity.of(source):
                return  # resumed and suspended again: what was read belongs to neither
            if source == hot:
                draft.rename(folder / MEMORY)
            durable = msgspec.structs.replace(
                sealed,
                memory=FileIdentity.of(folder / MEMORY),
                digest=digest,
                durable_at_ns=time.time_ns(),
            )
            await snapshots.seal(folder, durable)
            if not snapshots.is_held(machine_id):
                hot.unlink(missing_ok=True)
    finally:
        draft.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    """Synced, since a file system that discards blocks as they become free has the next sync wait for it.

    Otherwise that is the journal's, in front of somebody's suspend or start: 5 ms for 30 MiB.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        os.fsync(disks.opened(stack, os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))


def _copy_synced(source: Path, target: Path) -> None:
    with contextlib.ExitStack() as stack:
        read_fd = disks.opened(stack, disks.read_only(source))
        write_fd = disks.opened(stack, disks.create(target, None))
        disks.copy_sparse(read_fd, write_fd)
        os.fsync(write_fd)


def _sync(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        os.fsync(disks.opened(stack, os.open(path, os.O_RDWR | os.O_CLOEXEC)))
