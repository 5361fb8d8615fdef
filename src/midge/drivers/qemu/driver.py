"""The driver's verbs on QEMU. See `midge.drivers.base.Driver`.

```
 start:   take a warm slot │ restore the template │ boot, save a template, restore it
          └──── whichever is there first ────┘     then: who you are, run
 suspend: quiesce · save device state · end the VMM; memory stays in its file
 resume:  restore on that file · step the clock, reseed
```
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from contextlib import AbstractAsyncContextManager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import structlog

from midge.cgroup import CgroupTree
from midge.drivers import rundir as rundirs
from midge.drivers import shim, shim_files
from midge.drivers.base import (
    Capabilities,
    ExecRequest,
    ExecSession,
    Exited,
    Handle,
    Lost,
    Recovered,
    Running,
    Trace,
)
from midge.drivers.configure import ENTROPY_BYTES, configure, guest_files
from midge.drivers.guest_start import run_guest
from midge.drivers.instance import Instance, exit_status
from midge.drivers.qemu import boot
from midge.drivers.qemu.links import MachineLinks
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.snapshot import Snapshots, What, run_on
from midge.drivers.qemu.supply import DiskSource, Supply
from midge.drivers.qemu.vm import Vm, VmMaker
from midge.drivers.rundir import RunRecord
from midge.errors import DriverError, MidgeError, NotRunning, SnapshotUnusable, chain
from midge.guest import messages as m
from midge.guest.channel import GuestChannel
from midge.guest.errors import ChannelLost
from midge.machine.spec import ExitStatus, MachineSpec
from midge.net.pool import NetPool

GUEST_TIMEOUT_S = 30.0  # from restore to the process, on a loaded host under emulation

_log = structlog.get_logger("midge.qemu")


class QemuDriver:
    """Machines on QEMU's `microvm` board. `net` and `cgroups` are open before it and close after it."""

    name = "qemu"

    def __init__(
        self, settings: QemuSettings, *, images: DiskSource, net: NetPool, cgroups: CgroupTree
    ) -> None:
        self._settings = settings
        self._images = images
        self._net = net
        self._vms = VmMaker(settings, net, cgroups)
        self._links = MachineLinks(settings.rundir)
        self._supply = Supply(settings, images=images, net=net, vms=self._vms)
        self._pool = self._supply.pool
        self._snapshots = Snapshots(settings)
        self._instances: dict[str, Instance] = {}
        self._tasks: list[asyncio.Task[None]] = []
        # By machine: removals of what a suspended machine ran in. Whoever needs its address waits for them.
        self._removals: dict[str, asyncio.Task[None]] = {}

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            isolation="vm",
            suspend="memory",
            network="tap",
            templates=True,
            acceleration=self._supply.acceleration,
        )

    async def open(self) -> None:
        await self._supply.open()
        self._tasks = [
            asyncio.create_task(self._pool.run(), name="warm slots"),
            asyncio.create_task(self._snapshots.run(), name="snapshots to disk"),
        ]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        if ending := [*self._tasks, *self._removals.values()]:
            await asyncio.wait(ending)
        for instance in self._instances.values():
            await instance.detach()
        self._instances.clear()
        with contextlib.suppress(OSError):  # machines that run, or wait to be copied to disk, keep it
            self._settings.memory_dir.rmdir()

    async def prepare(self, spec: MachineSpec) -> None:
        await self._supply.prepare(spec)

    # ── start ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, spec: MachineSpec, trace: Trace) -> Handle:
        adopted = await self._adopt_same(spec)
        if adopted is not None:
            return adopted
        self._pool.begin_start()
        try:
            return await self._start(spec, trace)
        finally:
            self._pool.end_start()

    async def _start(self, spec: MachineSpec, trace: Trace) -> Handle:
        vm, phase = await self._supply.take(spec)
        trace.mark(phase)
        try:
            await self._claim(vm, spec)
            trace.mark("claim")
            await self._run(vm, spec)
            trace.mark("guest")
        except BaseException:
            await self._abandon(vm, spec.machine_id)
            raise
        return self._running(vm, spec)

    async def _claim(self, vm: Vm, spec: MachineSpec) -> None:
        """Writes down whose VM this is, then gives it the machine's address."""
        await self._removed(spec.machine_id)
        record = RunRecord(start_id=spec.start_id, slot=vm.slot.name, data={"machine": spec.machine_id})
        rundirs.write_record(vm.rundir, record)
        self._links.link(spec.machine_id, vm.name)
        await self._vms.assign(vm, _address(spec), spec.network.mac if spec.network else None)

    async def _run(self, vm: Vm, spec: MachineSpec) -> None:
        """Tells the guest who it is and runs its process; a guest that does not come up is an error at once."""
        message = configure(
            spec,
            entropy=os.urandom(ENTROPY_BYTES),
            wall_clock_ns=time.time_ns(),
            root=m.Root(lower="/dev/vda", upper="/dev/vdb"),
            net=_net(vm),
            nameservers=self._settings.nameservers,
        )
        try:
            async with asyncio.timeout(GUEST_TIMEOUT_S):
                await run_guest(vm.channel, message, guest_files(spec))
        except (ChannelLost, TimeoutError) as error:
            raise DriverError(
                f"machine {spec.machine_id} did not come up: {boot.last_words(vm.rundir)}"
            ) from error

    def _running(self, vm: Vm, spec: MachineSpec) -> Handle:
        vm.vmm.qmp.close()
        self._instances[spec.machine_id] = Instance(vm.rundir, vm.channel, vm.vmm.process)
        return self._handle(spec, vm.name)

    def _handle(self, spec: MachineSpec, name: str) -> Handle:
        return Handle(driver=self.name, machine_id=spec.machine_id, start_id=spec.start_id, data={"vm": name})

    async def _abandon(self, vm: Vm, machine_id: str) -> None:
        vm.vmm.qmp.close()
        await vm.channel.aclose()
        vm.vmm.process.kill()
        await self._vms.remove(vm.name)
        vm.vmm.process.release()
        self._links.unlink(machine_id)

    async def _adopt_same(self, spec: MachineSpec) -> Handle | None:
        """What this very start left running before the worker died; anything else of the machine is cleared away."""
        name = self._links.find(spec.machine_id)
        if name is None:
            return None
        record = rundirs.read_record(self._vms.rundir(name))
        if record is not None and record.start_id == spec.start_id:
            channel = await self._attach(name)
            if channel is not None and channel.guest is not None and channel.guest.state == "running":
                self._instances[spec.machine_id] = Instance(self._vms.rundir(name), channel)
                return self._handle(spec, name)
            if channel is not None:
                await channel.aclose()
        await self.cleanup(spec.machine_id, None)
        return None

    async def _attach(self, name: str) -> GuestChannel | None:
        """A channel to a guest that runs and has not ended; None otherwise."""
        rundir = self._vms.rundir(name)
        found = shim_files.read_state(rundir)
        if not found.shim_alive or found.exit is not None:
            return None
        if not await run_on(rundir):
            return None
        channel = None
        try:
            channel = await shim.attach(rundir)
            await channel.hello()
        except MidgeError as error:
            _log.warning("guest does not answer", vm=name, error=chain(error))
            if channel is not None:
                await channel.aclose()
            return None
        record = rundirs.read_record(rundir)
        if record is not None:
            await self._net.adopt(record.slot)
        return channel

    # ── while it runs ─────────────────────────────────────────────────────────────────────────────────────────

    def _instance(self, handle: Handle) -> Instance:
        instance = self._instances.get(handle.machine_id)
        if instance is None:
            raise NotRunning(f"machine {handle.machine_id} does not run here")
        return instance

    async def wait(self, handle: Handle) -> ExitStatus:
        return await self._instance(handle).wait()

    async def signal(self, handle: Handle, signum: int) -> None:
        await self._instance(handle).signal(signum)

    async def kill(self, handle: Handle) -> None:
        instance = self._instances.get(handle.machine_id)
        if instance is not None:
            await instance.kill()

    def exec(self, handle: Handle, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        return self._instance(handle).exec(request)

    async def ps(self, handle: Handle) -> list[dict[str, Any]]:
        return await self._instance(handle).ps()

    async def stats(self, handle: Handle) -> dict[str, Any]:
        return await self._instance(handle).stats()

    # ── suspend and resume ────────────────────────────────────────────────────────────────────────────────────

    async def suspend(self, spec: MachineSpec, handle: Handle) -> dict[str, Any]:
        saved = await self._snapshots.saved(spec.machine_id, handle.start_id)
        if saved is not None:  # by this very step, before the worker died
            return saved
        instance = self._instance(handle)
        name = self._links.find(spec.machine_id)
        if name is None:
            raise NotRunning(f"machine {spec.machine_id} does not run here")
        recipe = self._supply.recipe(spec.shape)
        memory = self._vms.memory(name)
        what = What(template=recipe.key, image=spec.image.digest, start_id=handle.start_id)
        record = await self._snapshots.save(
            spec.machine_id,
            instance,
            what,
            memory=memory if memory.exists() else self._vms.memory_on_disk(name),
            layer=self._vms.layer(name),
        )
        # The VMM is gone and the state is safe: the machine is suspended. Its namespace can go in its own time.
        self._links.unlink(spec.machine_id)
        del self._instances[spec.machine_id]
        self._removals[spec.machine_id] = asyncio.create_task(
            self._remove_later(spec.machine_id, name, instance), name=f"remove {name}"
        )
        return record

    async def _remove_later(self, machine_id: str, name: str, instance: Instance) -> None:
        try:
            await instance.end(grace_s=0.0)
            await self._vms.remove(name)
        except (MidgeError, OSError) as error:
            # The next sweep finds it: no machine claims it.
            _log.error("a VM was not removed", vm=name, error=chain(error))
        finally:
            del self._removals[machine_id]

    async def _removed(self, machine_id: str) -> None:
        """Waits until nothing holds the machine's address any more."""
        task = self._removals.get(machine_id)
        if task is not None:
            await asyncio.wait([task])

    async def resume(self, spec: MachineSpec, snapshot: dict[str, Any], trace: Trace) -> Handle:
        adopted = await self._adopt_same(spec)
        if adopted is not None:
            # It runs, but the worker may have died before it was told the time.
            await self._tell_time(self._instances[spec.machine_id].channel)
            await self._snapshots.consumed(spec.machine_id)
            return adopted
        recipe = self._supply.recipe(spec.shape)
        lower = await self._images.erofs(spec.image.digest)
        self._pool.begin_start()
        try:
            what = What(template=recipe.key, image=spec.image.digest, start_id=snapshot["start_id"])
            saved = await self._snapshots.claim(spec.machine_id, what)
            trace.mark("verify")
            vm = await self._vms.restore(
                recipe.hardware, partial(saved.open, self._vms, lower), Path(spec.log_path)
            )
            trace.mark("restore")
            try:
                await self._claim(vm, spec)
                await self._wake(vm)
                trace.mark("guest")
            except BaseException:
                await self._abandon(vm, spec.machine_id)
                raise
        except (DriverError, ChannelLost, OSError) as error:
            if isinstance(error, SnapshotUnusable):
                raise
            raise SnapshotUnusable(f"machine {spec.machine_id} could not be resumed") from error
        finally:
            self._pool.end_start()
        await self._snapshots.consumed(spec.machine_id)
        return self._running(vm, spec)

    async def _wake(self, vm: Vm) -> None:
        """After a resume: new session, right clock, fresh entropy. Name and addresses are its own already."""
        async with asyncio.timeout(GUEST_TIMEOUT_S):
            await vm.channel.hello()
            await self._tell_time(vm.channel)

    async def _tell_time(self, channel: GuestChannel) -> None:
        await channel.resume(m.Resume(wall_clock_ns=time.time_ns(), entropy=os.urandom(ENTROPY_BYTES)))

    async def discard_snapshot(self, machine_id: str, snapshot: dict[str, Any]) -> None:
        await self._snapshots.discard(machine_id)

    # ── afterwards ────────────────────────────────────────────────────────────────────────────────────────────

    async def cleanup(self, machine_id: str, handle: Handle | None) -> None:
        instance = self._instances.pop(machine_id, None)
        if instance is not None:
            await instance.end(grace_s=0.0)
        name = self._links.find(machine_id)
        if name is not None:
            await self._vms.remove(name)
            self._links.unlink(machine_id)

    async def destroy(self, machine_id: str) -> None:
        await self._removed(machine_id)
        await self.cleanup(machine_id, None)
        await self._snapshots.discard(machine_id)
        await asyncio.to_thread(shutil.rmtree, self._settings.machines / machine_id, ignore_errors=True)

    async def recover(self, handle: Handle) -> Recovered:
        name = self._links.find(handle.machine_id)
        rundir = self._vms.rundir(name) if name else None
        record = rundirs.read_record(rundir) if rundir else None
        if name is None or rundir is None or record is None or record.start_id != handle.start_id:
            return Lost(reason="its run directory is gone, as after a restart of the host")
        channel = await self._attach(name)
        if channel is None:
            found = shim_files.read_state(rundir)
            return Exited(status=exit_status(found.exit, found.ended))
        self._instances[handle.machine_id] = Instance(rundir, channel)
        return Running(handle=handle)

    async def sweep(self, known: set[str]) -> list[str]:
        removed = []
        for machine_id in self._links.machines() - known:
            await self.destroy(machine_id)
            removed.append(machine_id)
        claimed = self._links.claimed() | self._pool.names()  # a sweep comes before any removal is under way
        for name in self._vms.names() - claimed:
            await self._vms.remove(name)
            removed.append(name)
        removed += await self._vms.sweep(claimed)
        removed += [*await self._snapshots.sweep(known), *await self._supply.templates.sweep()]
        return removed


def _address(spec: MachineSpec) -> IPv4Address:
    if spec.network is None:
        raise DriverError(f"machine {spec.machine_id} has no address")
    return IPv4Address(spec.network.ipv4)


def _net(vm: Vm) -> m.Net:
    slot = vm.slot
    return m.Net(mac=slot.mac or "", addresses=(f"{slot.ip}/32",), gateway=str(slot.gateway), mtu=slot.mtu)
