"""Suspended machines: device state, memory and writable disk, and the seal that says they are ours and whole.

```
machines/<id>/suspend/
    state    QEMU's device state
    layer    the writable disk
    memory   the guest's memory, once it has been copied to disk
    seal     MAC over the digest of `state` and what `memory` and `layer` must be
    used     a resume has begun: the rest is not to be trusted any more
memory_dir/suspended-<id>   the memory until then
```

The memory is never dumped: it is the file the guest ran on. A suspend therefore takes as long for 256 MiB as for
64 GiB, and a resume maps the file and reads what the guest touches. First it stays on tmpfs, so that a resume right
afterwards finds it hot; a task copies it to disk, makes it durable and gives the memory back.

Hashing gigabytes would cost what the mapping saves. So the seal holds both the digest of the memory file and its
identity (inode, size, times): a file whose identity is the sealed one has not been written since; any other is hashed.
The writable disk is never moved to another place, so its identity alone is sealed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from midge.drivers import disks, seal
from midge.drivers.instance import Instance
from midge.drivers.qemu import boot
from midge.drivers.qemu.launch import QMP_SOCKET, Files
from midge.drivers.qemu.qmp import Qmp
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.vm import SUSPENDED_PREFIX, VmMaker
from midge.errors import MidgeError, OutOfSpace, SnapshotUnusable, chain
from midge.machine.spec import MIB

STATE = "state"
LAYER = "layer"
DISK_RESERVE_BYTES = 256 * MIB  # what a suspend must leave free
ENDED_TIMEOUT_S = 10.0  # from the kill of a saved VMM until it is gone
RUN_ON_TIMEOUT_S = 10.0  # for a guest whose save failed to run again; the caller waits, maybe to shut down

_log = structlog.get_logger("midge.qemu")


class What(msgspec.Struct, kw_only=True, frozen=True):
    """What a snapshot fits: the template (kernel, VMM, CPU, shape), the image, and the run it was taken of."""

    template: str
    image: str
    start_id: str


class FileIdentity(msgspec.Struct, kw_only=True, frozen=True):
    """A file that nobody has written since. Times in nanoseconds."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        found = path.lstat()
        return cls(
            inode=found.st_ino, size=found.st_size, mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns
        )


class Sealed(msgspec.Struct, kw_only=True, frozen=True):
    """The metadata under the seal. `digest` and `durable_at_ns` are there once the memory is on disk."""

    what: What
    memory: FileIdentity
    layer: FileIdentity
    suspended_at_ns: int
    digest: str = ""
    durable_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """A verified snapshot that a resume has claimed. Its files move to the VM that opens them."""

    folder: Path
    memory: Path
    on_disk: bool

    def open(self, vms: VmMaker, lower: Path, stack: contextlib.ExitStack, name: str, uid: int) -> Files:
        """Gives the files to the VM of that name."""
        memory = vms.memory_on_disk(name) if self.on_disk else vms.memory(name)
        layer = vms.layer(name)
        self.memory.rename(memory)
        (self.folder / LAYER).rename(layer)
        for path in (memory, layer):
            os.chown(path, uid, uid)
        return Files(
            memory=disks.opened(stack, os.open(memory, os.O_RDWR | os.O_CLOEXEC)),
            upper=disks.opened(stack, os.open(layer, os.O_RDWR | os.O_CLOEXEC)),
            lower=disks.opened(stack, disks.read_only(lower)),
            state=disks.opened(stack, disks.read_only(self.folder / STATE)),
        )


class Snapshots:
    """Snapshots of one host. `run` is the task that takes them to disk."""

    def __init__(self, settings: QemuSettings) -> None:
        self._settings = settings
        self._locks: dict[str, asyncio.Lock] = {}
        self._to_disk: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._key: bytes | None = None

    def _folder(self, machine_id: str) -> Path:
        return self._settings.machines / machine_id / "suspend"

    def _hot(self, machine_id: str) -> Path:
        return self._settings.memory_dir / f"{SUSPENDED_PREFIX}{machine_id}"

    def _lock(self, machine_id: str) -> asyncio.Lock:
        return self._locks.setdefault(machine_id, asyncio.Lock())

    def _host_key(self) -> bytes:
        if self._key is None:
            self._key = seal.host_key(self._settings.seal_key)
        return self._key

    # ── suspend ───────────────────────────────────────────────────────────────────────────────────────────────

    async def save(
        self, machine_id: str, instance: Instance, what: What, *, memory: Path, layer: Path
    ) -> dict[str, Any]:
        """Saves the VM and ends it; returns the record for the database.

        Raises:
            OutOfSpace, DriverError: the machine runs on as if nothing had been asked.
        """
        self._check_room(memory)
        folder = self._folder(machine_id)
        await asyncio.to_thread(_fresh, folder)
        state = os.open(folder / STATE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            await self._save_state(instance, state)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        finally:
            os.close(state)
        # From here on there is no way back to the running VM; nothing below can fail but for a broken disk.
        await instance.kill()
        with contextlib.suppress(MidgeError, TimeoutError):
            async with asyncio.timeout(ENDED_TIMEOUT_S):
                await instance.channel.wait_ended()
        on_disk = memory.parent == layer.parent
        kept = folder / "memory" if on_disk else self._hot(machine_id)
        memory.rename(kept)
        layer.rename(folder / LAYER)
        for path in (kept, folder / LAYER):
            os.chown(path, 0, 0)
        sealed = Sealed(
            what=what,
            memory=FileIdentity.of(kept),
            layer=FileIdentity.of(folder / LAYER),
            suspended_at_ns=time.time_ns(),
        )
        await seal.seal(self._host_key(), folder, [STATE], msgspec.to_builtins(sealed))
        self._to_disk[machine_id] = None
        self._wake.set()
        return {"start_id": what.start_id, "template": what.template}

    def _check_room(self, memory: Path) -> None:
        needed = memory.stat().st_blocks * 512 + DISK_RESERVE_BYTES
        disk = os.statvfs(self._settings.machines)
        free = disk.f_bavail * disk.f_frsize
        if free < needed:
            raise OutOfSpace(
                f"suspend needs {needed // MIB} MiB on disk, {free // MIB} MiB are free",
                hint=f"free space where {self._settings.machines} lies; the machine runs on",
            )

    async def _save_state(self, instance: Instance, state: int) -> None:
        qmp = None
        try:
            await instance.channel.quiesce()
            qmp = await Qmp.connect(instance.rundir / QMP_SOCKET, state_fd=state)
            await boot.save_state(qmp)
        except BaseException:
            await _run_on(instance, qmp)
            raise
        finally:
            if qmp is not None:
                qmp.close()

    async def saved(self, machine_id: str, start_id: str) -> dict[str, Any] | None:
        """The record of a snapshot of that run that is complete, if there is one."""
        with contextlib.suppress(SnapshotUnusable):
            sealed = await self._verify(self._folder(machine_id))
            if sealed.what.start_id == start_id:
                return {"start_id": start_id, "template": sealed.what.template}
        return None

    # ── resume ────────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(self, machine_id: str, what: What) -> Saved:
        """Verifies a snapshot and takes it for the one resume it is good for.

        Raises:
            SnapshotUnusable: missing, changed, used already, or of something else.
        """
        folder = self._folder(machine_id)
        async with self._lock(machine_id):
            sealed = await self._verify(folder)
            if (folder / "used").exists():
                raise SnapshotUnusable("a resume of this snapshot was begun before and did not end")
            if sealed.what != what:
                raise SnapshotUnusable(f"it was saved by another {_difference(sealed.what, what)}")
            hot = self._hot(machine_id)
            memory = hot if hot.exists() else folder / "memory"
            await self._verify_memory(memory, sealed)
            self._verify_layer(folder / LAYER, sealed)
            (folder / "used").touch()
            self._to_disk.pop(machine_id, None)
            return Saved(folder, memory, memory != hot)

    async def _verify(self, folder: Path) -> Sealed:
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

    def _verify_layer(self, layer: Path, sealed: Sealed) -> None:
        try:
            identity = FileIdentity.of(layer)
        except OSError as error:
            raise SnapshotUnusable(f"{layer} is gone") from error
        if identity != sealed.layer:
            raise SnapshotUnusable(f"{layer} has changed since the suspend")

    async def consumed(self, machine_id: str) -> None:
        """The machine runs again: what is left of the snapshot goes."""
        await asyncio.to_thread(shutil.rmtree, self._folder(machine_id).parent, ignore_errors=True)

    async def discard(self, machine_id: str) -> None:
        self._to_disk.pop(machine_id, None)
        async with self._lock(machine_id):
            self._hot(machine_id).unlink(missing_ok=True)
            await asyncio.to_thread(shutil.rmtree, self._folder(machine_id).parent, ignore_errors=True)
        self._locks.pop(machine_id, None)

    async def sweep(self, known: set[str]) -> list[str]:
        """Removes snapshots of machines nobody knows."""
        removed = []
        for folder in self._settings.machines.iterdir():
            if folder.name not in known:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                removed.append(str(folder))
        for hot in self._settings.memory_dir.glob(f"{SUSPENDED_PREFIX}*"):
            if hot.name.removeprefix(SUSPENDED_PREFIX) not in known:
                hot.unlink(missing_ok=True)
                removed.append(str(hot))
        return removed

    # ── to disk ───────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Takes suspended memory to disk, one machine after another, until cancelled."""
        for hot in self._settings.memory_dir.glob(f"{SUSPENDED_PREFIX}*"):
            self._to_disk.setdefault(hot.name.removeprefix(SUSPENDED_PREFIX))
        while True:
            if not self._to_disk:
                self._wake.clear()
                await self._wake.wait()
                continue
            machine_id = next(iter(self._to_disk))
            # Before it is done: a machine that is resumed and suspended again meanwhile asks anew.
            del self._to_disk[machine_id]
            try:
                await self._take_to_disk(machine_id)
            except (MidgeError, OSError) as error:
                if not (self._folder(machine_id) / seal.SEAL_NAME).exists():
                    continue  # resumed meanwhile
                # It stays in memory, where it is as good until the host restarts.
                _log.warning("snapshot stays in memory", machine=machine_id, error=chain(error))

    async def _take_to_disk(self, machine_id: str) -> None:
        hot, folder = self._hot(machine_id), self._folder(machine_id)
        draft = folder / "memory.new"
        source = hot if hot.exists() else folder / "memory"
        before = (await self._verify(folder)).memory
        try:
            if source == hot:
                await asyncio.to_thread(_copy_synced, hot, draft)
            else:
                await asyncio.to_thread(_sync, source)
            await asyncio.to_thread(_sync, folder / LAYER)
            digest = await asyncio.to_thread(seal.digest_of, draft if source == hot else source)
            async with self._lock(machine_id):
                if not source.exists() or (folder / "used").exists():
                    return  # resumed meanwhile
                sealed = await self._verify(folder)
                if not sealed.memory == before == FileIdentity.of(source):
                    return  # resumed and suspended again: what was read belongs to neither
                if source == hot:
                    draft.rename(folder / "memory")
                durable = msgspec.structs.replace(
                    sealed,
                    memory=FileIdentity.of(folder / "memory"),
                    digest=digest,
                    durable_at_ns=time.time_ns(),
                )
                await seal.seal(self._host_key(), folder, [STATE], msgspec.to_builtins(durable))
                hot.unlink(missing_ok=True)
        finally:
            draft.unlink(missing_ok=True)


async def run_on(rundir: Path) -> bool:
    """Has a guest go on that stands still because its worker died while it was saved. Nothing for one that runs.

    Returns:
        False for a VMM that was not restored: its worker died before it had the order. No guest will ever answer there.
    """
    with contextlib.suppress(MidgeError, TimeoutError):
        async with asyncio.timeout(RUN_ON_TIMEOUT_S):
            qmp = await Qmp.connect(rundir / QMP_SOCKET)
            try:
                found = await qmp.execute("query-status")
                if found["status"] == "inmigrate":
                    return False
                if not found["running"]:
                    qmp.post("migrate_cancel")
                    await qmp.execute("cont")
            finally:
                qmp.close()
    return True


async def _run_on(instance: Instance, qmp: Qmp | None) -> None:
    """After a save that failed or was cancelled: the guest may stand still by now, and it is quiet until a HELLO."""
    with contextlib.suppress(MidgeError, TimeoutError):
        async with asyncio.timeout(RUN_ON_TIMEOUT_S):
            if qmp is not None:
                qmp.post("migrate_cancel")
                await qmp.execute("cont")
            await instance.channel.hello()


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)


def _copy_synced(source: Path, target: Path) -> None:
    with contextlib.ExitStack() as stack:
        read_fd = disks.opened(stack, disks.read_only(source))
        write_fd = disks.opened(stack, disks.create(target, None))
        disks.copy_sparse(read_fd, write_fd)
        os.fsync(write_fd)


def _sync(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        os.fsync(disks.opened(stack, os.open(path, os.O_RDWR | os.O_CLOEXEC)))


def _difference(have: What, wanted: What) -> str:
    if have.template != wanted.template:
        return "kernel, VMM, CPU model or shape"
    return "image" if have.image != wanted.image else "run"
