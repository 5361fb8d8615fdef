"""Suspended machines on disk.

    SNAPSHOTS/ID/memory, state, seal     a suspended machine; its writable disk stays where it was
    SNAPSHOTS/.ID/                       being saved: the machine is paused, or its worker died while it was

::

    running ── quiesce, pause, write ──► paused ── freeze the VMM ──► hash, seal, publish ── kill ──► suspended
       ▲                                   │                               │
       └──────── thaw, resume ◄────────────┴─────── anything failed ───────┘

The VMM is frozen while its files are hashed and killed without running again: what is sealed is what it wrote
before, and until the seal is on disk the machine can still go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midge.cgroup import Cgroup
from midge.drivers import disks, seal, shim_files
from midge.drivers.firecracker import bodies as b
from midge.drivers.firecracker.jail import Jail
from midge.drivers.firecracker.launch import connect
from midge.drivers.threads import joined_in_thread
from midge.errors import DriverError, NotSupported, SnapshotUnusable
from midge.guest.channel import GuestChannel
from midge.guest.errors import ChannelLost

NAMES = ("memory", "state")
END_TIMEOUT_S = 5.0  # from SIGKILL until the shim has said that the VMM ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running machine that is to be suspended."""

    machine_id: str
    rundir: Path
    jail: Jail
    cgroup: Cgroup
    channel: GuestChannel
    memory_mb: int
    upper: Path


class Snapshots:
    """The suspended machines of one host."""

    def __init__(self, root: Path, *, key_file: Path) -> None:
        self._root = root
        self._key_file = key_file

    def folder(self, machine_id: str) -> Path:
        return self._root / machine_id

    def exists(self, machine_id: str) -> bool:
        """Whether there is a snapshot, good or not."""
        return (self.folder(machine_id) / seal.SEAL_NAME).exists()

    def is_under_way(self, machine_id: str) -> bool:
        """Whether a suspend has begun that has neither ended nor been undone."""
        return self._draft(machine_id).exists()

    def machines(self) -> set[str]:
        """All that have anything here."""
        return {path.name.removeprefix(".") for path in self._root.iterdir()}

    async def save(self, target: Target, metadata: dict[str, Any], *, diff: bool) -> None:
        """Saves a machine and ends its VMM.

        Args:
            diff: its memory has been tracked since it was restored, so only what has changed is written.

        Raises:
            OutOfSpace, DriverError: the machine runs on.
            NotSupported: the host has no freezer.
        """
        draft = self._draft(target.machine_id)
        await asyncio.to_thread(_fresh, draft)
        try:
            await target.channel.quiesce(freeze=True)
            async with await connect(target.jail) as api:
                await api.send(b.Vm(state="Paused"))
                if diff:
                    await asyncio.to_thread(_copy_base, target.jail)
                request = b.SnapshotCreateParams(
                    snapshot_type="Diff" if diff else "Full",
                    snapshot_path="/save/state",
                    mem_file_path="/save/memory",
                )
                await api.create_snapshot(request, memory_mb=target.memory_mb)
            await target.cgroup.freeze()
            await joined_in_thread(_take, target.jail, draft)
            key = await asyncio.to_thread(seal.host_key, self._key_file)
            disk = await asyncio.to_thread(disk_identity, target.upper)
            await seal.seal(key, draft, NAMES, {**metadata, "upper": disk})
            await joined_in_thread(_publish, draft, self.folder(target.machine_id))
        except BaseException:
            if self.exists(target.machine_id):  # cancelled a moment too late: it is suspended
                await self.end(target)
            else:
                await self.undo(target)
            raise
        await self.end(target)

    async def undo(self, target: Target) -> None:
        """Lets a machine go on whose suspend was not completed. Raises: DriverError, ChannelLost."""
        thaw(target.cgroup)
        async with await connect(target.jail) as api:
            if (await api.describe()).state == "Paused":
                await api.send(b.Vm(state="Resumed"))
        await target.channel.hello()
        await asyncio.to_thread(_discard, target.jail)
        await asyncio.to_thread(shutil.rmtree, self._draft(target.machine_id), ignore_errors=True)

    async def end(self, target: Target) -> None:
        """Ends the VMM of a machine that is saved, without letting it run again. Repeatable."""
        record = shim_files.read_state(target.rundir).record
        if record is not None:
            record.child.kill()
        thaw(target.cgroup)
        with contextlib.suppress(ChannelLost, TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await target.channel.wait_ended()

    async def verify(self, machine_id: str) -> dict[str, Any]:
        """The metadata of a snapshot that is whole and ours. Raises: SnapshotUnusable."""
        try:
            key = await asyncio.to_thread(seal.host_key, self._key_file)
        except DriverError as error:
            raise SnapshotUnusable("the host's key is gone or damaged") from error
        return await seal.verify(key, self.folder(machine_id), NAMES)

    async def remove(self, machine_id: str) -> None:
        """Repeatable. A machine that was resumed from it keeps its files open."""
        for folder in (self.folder(machine_id), self._draft(machine_id)):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _draft(self, machine_id: str) -> Path:
        return self._root / f".{machine_id}"


def thaw(cgroup: Cgroup) -> None:
    """Lets a group run again. Nothing if it is gone, or was never frozen. Raises: OSError."""
    with contextlib.suppress(FileNotFoundError, NotSupported):
        cgroup.thaw()


def disk_identity(upper: Path) -> str:
    """What changes when anybody writes to the disk; everything written before is on disk after this. Raises: OSError.

    The guest's memory knows what is on it: a disk that was changed meanwhile would be wrecked by a resume.
    """
    fd = disks.read_only(upper)
    try:
        os.fsync(fd)
        found = os.fstat(fd)
    finally:
        os.close(fd)
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What a snapshot does not agree in, for a message; empty if it does in everything."""
    names = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    return ", ".join(f"{name} was {saved.get(name)} and is {wanted.get(name)}" for name in names)


def _copy_base(jail: Jail) -> None:
    """What the guest was restored from: a diff is written over a copy of it."""
    target = jail.writable_copy_target("memory")
    try:
        source = disks.read_only(jail.root / "memory")
        try:
            disks.copy_sparse(source, target)
        finally:
            os.close(source)
    finally:
        os.close(target)


def _discard(jail: Jail) -> None:
    for name in NAMES:
        jail.discard(name)


def _take(jail: Jail, draft: Path) -> None:
    for name in NAMES:
        jail.take(name, draft / name)


def _publish(draft: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
