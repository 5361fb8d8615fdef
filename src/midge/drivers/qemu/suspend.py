"""Suspending and resuming, and taking a suspend back.

```
 suspend: quiesce · save device state ─┬─ files sealed ─── parked ──────────────────── or ended, where there is no room
             the guest runs on         │  the guest stands still      │
          ◄── failed, cancelled ───────┘                              ▼
 resume:  cont · step the clock, reseed ◄─────────────── the parked VM, or a new one that restores the snapshot
```

Until the device state is saved, a suspend that fails or is cancelled leaves a guest that runs. What follows takes
milliseconds and is not cancelled: then the machine is suspended, or, where sealing failed and its VM was to be
parked, runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from midge.drivers import rundir as rundirs
from midge.drivers import shim_files
from midge.drivers.base import Handle, Trace
from midge.drivers.instance import Instance
from midge.drivers.qemu import parked, saving, working_set
from midge.drivers.qemu.parked import ParkedVm, ParkedVms
from midge.drivers.qemu.residents import Residents, handle_of
from midge.drivers.qemu.snapshot import Snapshots, record_of
from midge.drivers.qemu.snapshot_files import STATE, Kept, What
from midge.drivers.qemu.supply import DiskSource, Supply
from midge.drivers.qemu.vm import VmMaker
from midge.drivers.threads import joined
from midge.errors import (
    DeadlineExceeded,
    DriverError,
    GuestError,
    MidgeError,
    NotRunning,
    SnapshotUnusable,
    chain,
)
from midge.guest.errors import ChannelLost
from midge.machine.spec import MachineSpec

_log = structlog.get_logger("midge.qemu")


class Suspending:
    """The verbs of `QemuDriver` that have to do with it; see `midge.drivers.base.Driver`."""

    def __init__(
        self,
        *,
        images: DiskSource,
        vms: VmMaker,
        supply: Supply,
        snapshots: Snapshots,
        parked: ParkedVms,
        residents: Residents,
    ) -> None:
        self._images = images
        self._vms = vms
        self._supply = supply
        self._snapshots = snapshots
        self._parked = parked
        self._residents = residents

    # ── suspend ───────────────────────────────────────────────────────────────────────────────────────────────

    async def suspend(self, spec: MachineSpec, handle: Handle) -> dict[str, Any]:
        handle.check()
        machine_id = spec.machine_id
        saved = await self._snapshots.saved(machine_id, handle.start_id)
        if saved is not None:  # by this very step, before the worker died
            return saved
        instance = self._residents.instance(handle)
        name = self._residents.links.find(machine_id)
        if name is None:
            raise NotRunning(f"machine {machine_id} does not run here")
        what = self._what(spec, handle.start_id)
        folder = await self._snapshots.begin(machine_id, self._memory(name))
        # While the guest is saved: looking through a large page table takes longer than that.
        vmm, memory = instance.channel.shim.child_pid, self._memory(name)
        pages = asyncio.create_task(asyncio.to_thread(working_set.touched, vmm, memory))
        try:
            await saving.save(instance, folder / STATE)
        except BaseException:
            self._snapshots.consumed(machine_id)
            raise
        finally:
            await asyncio.wait([pages])
        with contextlib.suppress(OSError):  # a full disk is for the seal to report
            working_set.record(folder, pages.result())
        return await joined(self._leave(machine_id, name, instance, what))

    async def _leave(self, machine_id: str, name: str, instance: Instance, what: What) -> dict[str, Any]:
        """From a saved state to a suspended machine."""
        cost_mb = parked.cost_mb(self._memory(name), instance.channel.shim.child_pid)
        held = self._parked.has_room(cost_mb)
        if not held:
            await saving.end_vmm(instance)
        try:
            kept = await self._snapshots.complete(machine_id, what, self._vms, name, held=held)
        except BaseException:
            if held:
                with contextlib.suppress(MidgeError):
                    await saving.run_on(instance.rundir)
                    await saving.wake(instance.channel)
            raise
        self._residents.links.unlink(machine_id)
        self._residents.let_go(machine_id)
        vm = ParkedVm(machine_id, name, instance, kept if held else None, cost_mb)
        if held:
            self._parked.park(vm)
        else:
            # The VMM is gone and the state is safe: the machine is suspended. Its namespace can go in its own time.
            self._parked.end(vm)
        return record_of(what)

    def _memory(self, name: str) -> Path:
        memory = self._vms.memory(name)
        return memory if memory.exists() else self._vms.memory_on_disk(name)

    def _what(self, spec: MachineSpec, start_id: str, template: str = "") -> What:
        """`template`: what the snapshot says it came from; it counts where we have its kernel still."""
        recipe = self._supply.recipe_of(spec.shape, template)
        return What(template=recipe.key, image=spec.image.digest, start_id=start_id)

    # ── resume ────────────────────────────────────────────────────────────────────────────────────────────────

    async def resume(self, spec: MachineSpec, snapshot: dict[str, Any], trace: Trace) -> Handle:
        adopted = await self._residents.adopt(spec)
        if adopted is not None:
            self._snapshots.consumed(spec.machine_id)
            return adopted
        what = self._what(spec, snapshot["start_id"], snapshot.get("template", ""))
        self._supply.pool.begin_start()
        try:
            handle = await self._from_parked(spec, what, trace)
            if handle is None:
                async with self._supply.gate.turn(trace):
                    handle = await self._restored(spec, what, trace)
        except (DriverError, GuestError, DeadlineExceeded, OSError) as error:
            if isinstance(error, SnapshotUnusable):
                raise
            raise SnapshotUnusable(f"machine {spec.machine_id} could not be resumed") from error
        finally:
            self._supply.pool.end_start()
        trace.mark("guest")
        self._snapshots.consumed(spec.machine_id)
        return handle

    async def _from_parked(self, spec: MachineSpec, what: What, trace: Trace) -> Handle | None:
        """By the VM it was suspended in, if that is still there."""
        vm = self._parked.take(spec.machine_id)
        if vm is None or vm.kept is None:
            return None
        try:
            async with saving.standing(vm.instance.rundir) as qmp:
                await self._claim_parked(vm, vm.kept, what, spec)
                trace.mark("parked")
                await qmp.execute("cont")
            await saving.wake(vm.instance.channel)
        except BaseException as error:
            self._residents.links.unlink(spec.machine_id)
            self._parked.end(vm)
            if not isinstance(error, MidgeError) or self._snapshots.is_used(spec.machine_id):
                raise
            _log.warning("a parked VM is not used", machine=spec.machine_id, error=chain(error))
            return None
        self._residents.hold(spec.machine_id, spec.start_id, vm.instance)
        return handle_of(spec, vm.name)

    async def _claim_parked(self, vm: ParkedVm, kept: Kept, what: What, spec: MachineSpec) -> None:
        """Raises: MidgeError: it is not used, and its files are still the snapshot's."""
        record = rundirs.read_record(vm.instance.rundir)
        if record is None:
            raise SnapshotUnusable(f"the record of {vm.name} is gone")
        await self._snapshots.claim_held(spec.machine_id, kept, what)
        self._residents.write(spec, vm.name, record.slot, kept.uid)

    async def _restored(self, spec: MachineSpec, what: What, trace: Trace) -> Handle:
        """By a new VM on the snapshot's files."""
        recipe = self._supply.recipe_of(spec.shape, what.template)
        lower = await self._images.erofs(spec.image.digest)
        # What is out is out: a VMM that was taken over could change what has been verified.
        await self._parked.vmm_gone(spec.machine_id)
        # Before the snapshot is used up: a host without a free slot costs nobody his memory.
        slot = await self._vms.reserve()
        try:
            saved = await self._snapshots.claim(spec.machine_id, what)
        except BaseException:
            await self._vms.unreserve(slot)
            raise
        trace.mark("verify")
        vm = await self._vms.restore(
            recipe.hardware, partial(saved.open, self._vms, lower), Path(spec.log_path), slot=slot
        )
        trace.mark("restore")
        try:
            await self._residents.claim(vm, spec)
            await saving.wake(vm.channel)
        except BaseException:
            await self._residents.abandon(vm, spec.machine_id)
            raise
        return self._residents.running(vm, spec)

    # ── back, and away ────────────────────────────────────────────────────────────────────────────────────────

    async def go_on(self, spec: MachineSpec, handle: Handle, trace: Trace) -> Handle:
        handle.check()
        machine_id = spec.machine_id
        if await self._snapshots.saved(machine_id, handle.start_id) is None:
            instance = self._residents.find(handle)
            if instance is not None and self._residents.vm_of(machine_id, handle.start_id) is not None:
                await self._greet(instance, machine_id)
                return handle
        return await self.resume(spec, {"start_id": handle.start_id}, trace)

    async def _greet(self, instance: Instance, machine_id: str) -> None:
        """A guest that was quiet for a save opens a new session. One that has ended will be seen to have."""
        found = shim_files.read_state(instance.rundir)
        if instance.channel.guest is not None or found.ended is not None or not found.child_alive:
            return
        try:
            await saving.run_on(instance.rundir)
            await saving.wake(instance.channel)
        except ChannelLost:
            return
        except DeadlineExceeded as error:
            raise SnapshotUnusable(f"machine {machine_id} does not answer") from error

    async def recover(self, machine_id: str, name: str, start_id: str) -> None:
        """After a worker that died in the middle of a suspend: what is saved has no VM any more, all else runs on."""
        if await self._snapshots.saved(machine_id, start_id) is not None:
            await self._residents.clear(machine_id)
            return
        record = rundirs.read_record(self._vms.rundir(name))
        if record is not None and self._snapshots.folder(machine_id).exists():
            self._snapshots.take_back(machine_id, self._vms, name, int(record.data.get("uid", 0)))

    async def discard(self, machine_id: str) -> None:
        await self._parked.gone(machine_id)
        await self._snapshots.discard(machine_id)


async def end_vmm(vm: ParkedVm) -> None:
    """Ends a parked VM's processes."""
    await vm.instance.end(grace_s=0.0)


async def remove(vms: VmMaker, snapshots: Snapshots, vm: ParkedVm) -> None:
    """Gives back what a parked VM had; its machine stays suspended on disk."""
    await snapshots.released(vm.machine_id)
    await vms.remove(vm.name)
