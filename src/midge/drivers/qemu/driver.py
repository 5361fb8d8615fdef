"""The driver's verbs on QEMU. See `midge.drivers.base.Driver`.

```
 start:   take a warm slot │ restore the template │ boot, save a template, restore it
          └──── whichever is there first ────┘     then: who you are, run
```

Suspending and resuming: `midge.drivers.qemu.suspend`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from midge.cgroup import CgroupTree
from midge.drivers import shim_files
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
from midge.drivers.instance import exit_status
from midge.drivers.keepers import Keepers
from midge.drivers.links import MachineLinks
from midge.drivers.qemu import boot, suspend
from midge.drivers.qemu.parked import ParkedVms
from midge.drivers.qemu.residents import Residents
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.snapshot import Snapshots
from midge.drivers.qemu.snapshot_disk import keep_taking
from midge.drivers.qemu.supply import DiskSource, Supply
from midge.drivers.qemu.vm import Vm, VmMaker
from midge.errors import DriverError
from midge.guest import messages as m
from midge.guest.errors import ChannelLost
from midge.machine.spec import ExitStatus, MachineSpec
from midge.net.pool import NetPool
from midge.sys.memory import available_ratio

GUEST_TIMEOUT_S = 30.0  # from restore to the process, on a loaded host under emulation


class QemuDriver:
    """Machines on QEMU's `microvm` board. `net` and `cgroups` are open before it and close after it."""

    name = "qemu"

    def __init__(
        self, settings: QemuSettings, *, images: DiskSource, net: NetPool, cgroups: CgroupTree
    ) -> None:
        self._settings = settings
        self._vms = VmMaker(settings, net, cgroups)
        self._supply = Supply(settings, images=images, net=net, vms=self._vms)
        self._pool = self._supply.pool
        self._snapshots = Snapshots(settings)
        self._parked = ParkedVms(
            settings.parked,
            end_vmm=suspend.end_vmm,
            remove=partial(suspend.remove, self._vms, self._snapshots),
            available_ratio=available_ratio,
        )
        self._links = MachineLinks(settings.rundir)
        self._residents = Residents(self._links, self._vms, net, self._parked.gone)
        self._suspending = suspend.Suspending(
            images=images,
            vms=self._vms,
            supply=self._supply,
            snapshots=self._snapshots,
            parked=self._parked,
            residents=self._residents,
        )
        self._keepers = Keepers()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(suspend="memory", kernel=self._supply.kernels.name)

    async def open(self) -> None:
        await self._supply.open()
        self._keepers.begin("warm slots", self._pool.run)
        self._keepers.begin("snapshots to disk", partial(keep_taking, self._snapshots))
        self._keepers.begin("parked VMs", self._parked.run)
        self._keepers.begin("kernels", self._supply.watch_kernels)

    async def aclose(self) -> None:
        await self._keepers.aclose()
        await self._parked.aclose()
        await self._residents.aclose()
        with contextlib.suppress(OSError):  # machines that run, or wait to be copied to disk, keep it
            self._settings.memory_dir.rmdir()

    async def prepare(self, spec: MachineSpec) -> None:
        await self._supply.prepare(spec)

    def statistics(self) -> dict[str, int]:
        parked = self._parked.statistics()
        return {
            "warm_slots": self._pool.statistics()["ready"],
            "parked_vms": parked["parked"],
            "parked_memory_mb": parked["memory_mb"],
            "parked_resumed": parked["resumed"],
            "parked_evicted": parked["evicted"],
        }

    # ── start ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, spec: MachineSpec, trace: Trace) -> Handle:
        adopted = await self._residents.adopt(spec)
        if adopted is not None:
            return adopted
        self._pool.begin_start()
        try:
            return await self._start(spec, trace)
        finally:
            self._pool.end_start()

    async def _start(self, spec: MachineSpec, trace: Trace) -> Handle:
        async with contextlib.AsyncExitStack() as turn:
            vm = await self._supply.take(spec, trace, turn)
            try:
                await self._residents.claim(vm, spec)
                trace.mark("claim")
                await self._run(vm, spec, trace)
            except BaseException:
                await self._residents.abandon(vm, spec.machine_id)
                raise
        return self._residents.running(vm, spec)

    async def _run(self, vm: Vm, spec: MachineSpec, trace: Trace) -> None:
        """Tells the guest who it is and runs its process; a guest that does not come up is an error at once."""
        message = configure(
            spec,
            entropy=os.urandom(ENTROPY_BYTES),
            wall_clock_ns=time.time_ns(),
            root=m.Root(lower="/dev/vda", upper="/dev/vdb"),
            net=_net(vm),
            nameservers=self._settings.nameservers(),
        )
        try:
            async with asyncio.timeout(GUEST_TIMEOUT_S):
                await run_guest(vm.channel, message, guest_files(spec), trace)
        except (ChannelLost, TimeoutError) as error:
            raise DriverError(
                f"machine {spec.machine_id} did not come up: {boot.last_words(vm.rundir)}"
            ) from error

    # ── while it runs ─────────────────────────────────────────────────────────────────────────────────────────

    async def wait(self, handle: Handle) -> ExitStatus:
        instance = self._residents.find(handle)
        return self._residents.recorded_exit(handle) if instance is None else await instance.wait()

    async def signal(self, handle: Handle, signum: int) -> None:
        instance = self._residents.find(handle)
        if instance is not None:
            await instance.signal(signum)

    async def kill(self, handle: Handle) -> None:
        instance = self._residents.find(handle)
        if instance is not None:
            await instance.kill()

    def exec(self, handle: Handle, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        return self._residents.instance(handle).exec(request)

    async def ps(self, handle: Handle) -> list[dict[str, Any]]:
        return await self._residents.instance(handle).ps()

    async def stats(self, handle: Handle) -> dict[str, Any]:
        return await self._residents.instance(handle).stats()

    # ── suspend and resume ────────────────────────────────────────────────────────────────────────────────────

    async def suspend(self, spec: MachineSpec, handle: Handle) -> dict[str, Any]:
        return await self._suspending.suspend(spec, handle)

    async def resume(self, spec: MachineSpec, snapshot: dict[str, Any], trace: Trace) -> Handle:
        return await self._suspending.resume(spec, snapshot, trace)

    async def go_on(self, spec: MachineSpec, handle: Handle, trace: Trace) -> Handle:
        return await self._suspending.go_on(spec, handle, trace)

    async def discard_snapshot(self, machine_id: str, snapshot: dict[str, Any]) -> None:
        await self._suspending.discard(machine_id)

    # ── afterwards ────────────────────────────────────────────────────────────────────────────────────────────

    async def cleanup(self, machine_id: str, handle: Handle | None) -> None:
        await self._residents.clear(machine_id)

    async def destroy(self, machine_id: str) -> None:
        await self._residents.clear(machine_id)
        await self._suspending.discard(machine_id)
        await asyncio.to_thread(shutil.rmtree, self._settings.machines / machine_id, ignore_errors=True)

    async def recover(self, handle: Handle) -> Recovered:
        handle.check()
        name = self._residents.vm_of(handle.machine_id, handle.start_id)
        if name is None:
            return Lost(reason="its run directory is gone, as after a restart of the host")
        await self._suspending.recover(handle.machine_id, name, handle.start_id)
        channel = await self._residents.attach(name)
        if channel is None:
            found = shim_files.read_state(self._vms.rundir(name))
            return Exited(status=exit_status(found.exit, found.ended))
        await self._residents.take_over(handle.machine_id, handle.start_id, name, channel)
        return Running(handle=handle)

    async def sweep(self, known: set[str]) -> list[str]:
        removed = []
        for machine_id in self._links.machines() - known:
            await self.destroy(machine_id)
            removed.append(machine_id)
        # A sweep comes before any VM of this worker is being ended; one that an earlier worker parked is nobody's.
        claimed = self._links.claimed() | self._pool.names() | self._parked.names()
        for name in self._vms.names() - claimed:
            await self._vms.remove(name)
            removed.append(name)
        removed += await self._vms.sweep(claimed)
        removed += [*await self._snapshots.sweep(known), *await self._supply.templates.sweep()]
        return removed


def _net(vm: Vm) -> m.Net:
    slot = vm.slot
    return m.Net(mac=slot.mac or "", addresses=(f"{slot.ip}/32",), gateway=str(slot.gateway), mtu=slot.mtu)
