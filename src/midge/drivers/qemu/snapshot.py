"""Suspended machines: device state, memory and writable disk, and the seal that says they are ours and whole.

```
machines/<id>/suspend/
    state    QEMU's device state
    layer    the writable disk
    memory   the guest's memory, once it has been copied to disk
    seal     MAC over the digest of `state` and what `memory` and `layer` must be
    used     a resume has begun: the rest is not to be trusted any more
    working-set   pages of the memory to read ahead; a hint, not under the seal
memory_dir/suspended-<id>   the memory until then
```

The memory is never dumped: it is the file the guest ran on. A suspend therefore takes as long for 256 MiB as for
64 GiB, and a resume maps the file and reads what the guest touches. First it stays on tmpfs, so that a resume right
afterwards finds it hot; a task copies it to disk, makes it durable and gives the memory back.

A parked VM (`midge.drivers.qemu.parked`) still has these files open. Where its memory is, and where it goes:

| suspended on | copied | resumed from the parked VM | the parked VM is ended |
|---|---|---|---|
| tmpfs | not yet | `suspended-<id>` is the VM's again; the copy is given up | the copy goes on, then frees the tmpfs |
| tmpfs | yes, and the tmpfs file stays | the same; the copy on disk goes with the folder | the tmpfs file is removed |
| disk | synced in place | `memory` is the VM's again | nothing |

Hashing gigabytes would cost what the mapping saves. So the seal holds both the digest of the memory file and its
identity (inode, size, times): a file whose identity is the sealed one has not been written since; any other is hashed.
The writable disk is never moved to another place, so its identity alone is sealed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from midge.drivers import seal
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.snapshot_files import (
    LAYER,
    MEMORY,
    STATE,
    USED,
    FileIdentity,
    Kept,
    Moved,
    Saved,
    Sealed,
    What,
    check,
)
from midge.drivers.qemu.vm import SUSPENDED_PREFIX, VmMaker
from midge.errors import DriverError, OutOfSpace, SnapshotUnusable
from midge.machine.spec import MIB

DISK_RESERVE_BYTES = 256 * MIB  # what a suspend must leave free


class Snapshots:
    """Snapshots of one host. `midge.drivers.qemu.snapshot_disk` takes them to disk."""

    def __init__(self, settings: QemuSettings) -> None:
        self.settings = settings
        self.to_disk: dict[str, None] = {}  # whose memory is to be taken to disk, in this order
        self.gone: deque[Path] = deque()  # folders put aside, to be removed by the same task
        self.wake = asyncio.Event()
        self._locks: dict[str, asyncio.Lock] = {}
        self._held: set[str] = set()  # whose files a parked VM has open
        self._key: bytes | None = None

    def folder(self, machine_id: str) -> Path:
        return self.settings.machines / machine_id / "suspend"

    def hot(self, machine_id: str) -> Path:
        return self.settings.memory_dir / f"{SUSPENDED_PREFIX}{machine_id}"

    def lock(self, machine_id: str) -> asyncio.Lock:
        return self._locks.setdefault(machine_id, asyncio.Lock())

    def is_held(self, machine_id: str) -> bool:
        return machine_id in self._held

    def _host_key(self) -> bytes:
        if self._key is None:
            self._key = seal.host_key(self.settings.seal_key)
        return self._key

    # ── suspend ───────────────────────────────────────────────────────────────────────────────────────────────

    async def begin(self, machine_id: str, memory: Path) -> Path:
        """An empty folder for a new snapshot. Raises: OutOfSpace, DriverError."""
        needed = memory.stat().st_blocks * 512 + DISK_RESERVE_BYTES
        self._check_room(needed)
        async with self.lock(machine_id):  # nobody seals an earlier one any more
            self.consumed(machine_id)
        folder = self.folder(machine_id)
        try:
            folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise DriverError(f"cannot make {folder}: {error.strerror}", hint="check the disk") from error
        return folder

    def _check_room(self, needed: int) -> None:
        disk = os.statvfs(self.settings.machines)
        free = disk.f_bavail * disk.f_frsize
        if free < needed:
            raise OutOfSpace(
                f"suspend needs {needed // MIB} MiB on disk, {free // MIB} MiB are free",
                hint=f"free space where {self.settings.machines} lies; the machine runs on",
            )

    async def complete(self, machine_id: str, what: What, vms: VmMaker, name: str, *, held: bool) -> Kept:
        """Takes the files of a VM whose state is saved, and seals them. `held`: the VM keeps them open.

        Raises:
            DriverError, OSError: there is no snapshot; a VM that still stands has its files again.
        """
        folder = self.folder(machine_id)
        memory, layer = vms.memory(name), vms.layer(name)
        on_disk = not memory.exists()
        uid = layer.stat().st_uid
        try:
            kept = Kept(
                what=what,
                memory=Moved.move(vms.memory_on_disk(name), folder / MEMORY)
                if on_disk
                else Moved.move(memory, self.hot(machine_id)),
                layer=Moved.move(layer, folder / LAYER),
                uid=uid,
            )
            sealed = Sealed(
                what=what,
                memory=kept.memory.identity,
                layer=kept.layer.identity,
                suspended_at_ns=time.time_ns(),
            )
            await self.seal(folder, sealed)
        except BaseException:
            if held:
                self.take_back(machine_id, vms, name, uid)
            raise
        if held:
            self._held.add(machine_id)
        self.to_disk[machine_id] = None
        self.wake.set()
        return kept

    def take_back(self, machine_id: str, vms: VmMaker, name: str, uid: int) -> None:
        """Gives a VM that still stands what a suspend that was not completed has taken of it. Repeatable."""
        folder = self.folder(machine_id)
        if (folder / USED).exists():
            return  # of a resume, whose VM has its files by now
        (folder / seal.SEAL_NAME).unlink(missing_ok=True)
        for path, home in (
            (self.hot(machine_id), vms.memory(name)),
            (folder / MEMORY, vms.memory_on_disk(name)),
            (folder / LAYER, vms.layer(name)),
        ):
            if path.exists() and not home.exists():
                path.rename(home)
                os.chown(home, uid, uid)
        self.consumed(machine_id)

    async def seal(self, folder: Path, sealed: Sealed) -> None:
        """Synced once its memory is: before, a loss of power takes that away, and the rest is good for nothing."""
        durable = bool(sealed.durable_at_ns)
        await seal.seal(self._host_key(), folder, [STATE], msgspec.to_builtins(sealed), sync=durable)

    async def saved(self, machine_id: str, start_id: str) -> dict[str, Any] | None:
        """The record of a snapshot of that run that is complete and was not used yet, if there is one."""
        folder = self.folder(machine_id)
        if not (folder / seal.SEAL_NAME).exists() or (folder / USED).exists():
            return None
        try:
            sealed = await self.verify(folder)
        except SnapshotUnusable:
            return None
        return record_of(sealed.what) if sealed.what.start_id == start_id else None

    # ── resume ────────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(self, machine_id: str, what: What) -> Saved:
        """Verifies a snapshot and takes it for the one resume it is good for. No VM may have its files open any more.

        Raises:
            SnapshotUnusable: missing, changed, used already, or of something else.
        """
        folder = self.folder(machine_id)
        async with self.lock(machine_id):
            sealed = await self.verify(folder)
            self._check_unused(folder)
            if sealed.what != what:
                raise SnapshotUnusable(f"it was saved by another {sealed.what.difference(what)}")
            hot = self.hot(machine_id)
            # Once it is durable, the seal is about the copy; the original may not have been removed yet.
            on_disk = bool(sealed.digest) or not hot.exists()
            memory = folder / MEMORY if on_disk else hot
            await self._verify_memory(memory, sealed)
            check(folder / LAYER, sealed.layer)
            self._use(machine_id)
            if on_disk:
                hot.unlink(missing_ok=True)
            return Saved(folder, memory, on_disk)

    async def claim_held(self, machine_id: str, kept: Kept, what: What) -> None:
        """The same for a parked VM, which gets its files back. What it does not need is not read.

        Waits for nobody, not for a copy to disk under way either: that finds the snapshot used.

        Raises:
            SnapshotUnusable: the files are not what they were when it was parked, or it is of something else.
        """
        self._check_unused(self.folder(machine_id))
        if kept.what != what:
            raise SnapshotUnusable(f"it was saved by another {kept.what.difference(what)}")
        kept.check()
        self._use(machine_id)
        self._held.discard(machine_id)
        kept.back()

    def is_used(self, machine_id: str) -> bool:
        """Whether a resume has begun with it."""
        return (self.folder(machine_id) / USED).exists()

    def _check_unused(self, folder: Path) -> None:
        if (folder / USED).exists():
            raise SnapshotUnusable("a resume of this snapshot was begun before and did not end")

    def _use(self, machine_id: str) -> None:
        try:
            (self.folder(machine_id) / USED).touch()
        except OSError as error:
            raise SnapshotUnusable("it cannot be marked as used") from error
        self.to_disk.pop(machine_id, None)

    async def released(self, machine_id: str) -> None:
        """Its parked VM has ended: memory that is on disk need not be on tmpfs any more."""
        async with self.lock(machine_id):
            self._held.discard(machine_id)
            folder = self.folder(machine_id)
            if not (folder / seal.SEAL_NAME).exists() or (folder / USED).exists():
                return
            try:
                durable = bool((await self.verify(folder)).digest)
            except SnapshotUnusable:
                return  # a resume will say so
            if durable:
                self.hot(machine_id).unlink(missing_ok=True)

    async def verify(self, folder: Path) -> Sealed:
        """Raises: SnapshotUnusable."""
        metadata = await seal.verify(self._host_key(), folder, [STATE])
        try:
            return msgspec.convert(metadata, Sealed)
        except msgspec.ValidationError as error:
            raise SnapshotUnusable("it was sealed in another format") from error

    async def _verify_memory(self, memory: Path, sealed: Sealed) -> None:
        try:
            identity = FileIdentity.of(memory)
        except OSError as error:
            raise SnapshotUnusable(f"{memory} is gone") from error
        if identity == sealed.memory:
            return
        if not sealed.digest or identity.size != sealed.memory.size:
            raise SnapshotUnusable(f"{memory} has changed since the suspend")
        if await asyncio.to_thread(seal.digest_of, memory) != sealed.digest:
            raise SnapshotUnusable(f"{memory} has changed since the suspend")

    # ── afterwards ────────────────────────────────────────────────────────────────────────────────────────────

    def consumed(self, machine_id: str) -> None:
        """What is left of a snapshot goes: at once by name, and in its own time from the disk.

        Removing a file that is just being written out takes as long as that: a second, where a disk is slow.
        """
        aside = self.settings.machines / f".gone-{secrets.token_hex(4)}"
        try:
            self.folder(machine_id).parent.rename(aside)
        except FileNotFoundError:
            return
        self.gone.append(aside)
        self.wake.set()

    async def discard(self, machine_id: str) -> None:
        self.to_disk.pop(machine_id, None)
        async with self.lock(machine_id):
            self._held.discard(machine_id)
            self.hot(machine_id).unlink(missing_ok=True)
            self.consumed(machine_id)
        self._locks.pop(machine_id, None)

    async def sweep(self, known: set[str]) -> list[str]:
        """Removes snapshots of machines nobody knows."""
        removed = []
        for folder in self.settings.machines.iterdir():
            if folder.name not in known and folder not in self.gone:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                removed.append(str(folder))
        for hot in self.settings.memory_dir.glob(f"{SUSPENDED_PREFIX}*"):
            if hot.name.removeprefix(SUSPENDED_PREFIX) not in known:
                hot.unlink(missing_ok=True)
                removed.append(str(hot))
        return removed


def record_of(what: What) -> dict[str, Any]:
    """What the database keeps of a snapshot."""
    return {"start_id": what.start_id, "template": what.template}
