"""One virtual machine on this host: its place, its files, its processes. Knows nothing of which machine it is for.

```
rundir/s12/       sockets and records of the VM in network slot 12
memory_dir/s12    its memory, on tmpfs
layers/s12        its writable disk
cgroup s12, network namespace …-12
```

Everything is named after the number of the network slot, so that what a dead worker left can be found and removed
by name alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from midge.cgroup import Cgroup, CgroupTree, Limits
from midge.drivers import rundir as rundirs
from midge.drivers.instance import kill_leftover
from midge.drivers.qemu.boot import CAPABILITIES, SCRATCH_PREFIXES
from midge.drivers.qemu.command import Hardware
from midge.drivers.qemu.launch import Files, Place, Vmm, launch
from midge.drivers.qemu.qmp import STATE
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.rundir import RunRecord
from midge.drivers.threads import joined_in_thread
from midge.drivers.vmm_user import QEMU_UID_BASE, slot_uid
from midge.errors import MidgeError
from midge.guest.channel import GuestChannel
from midge.machine.spec import MIB
from midge.net.pool import NetPool
from midge.net.slot import NetSlot

VMM_OVERHEAD_MB = 192  # QEMU's own memory: code, translation cache, device buffers
PIDS_MAX = 512
SUSPENDED_PREFIX = "suspended-"  # memory files of suspended machines that are not on disk yet
NICE_WHILE_WARMING = 19  # a guest that nobody waits for yet gives way to those that somebody does

# Opens the files of a new VM; what it opens it pushes on the stack.
OpenFiles = Callable[[contextlib.ExitStack, str, int], Files]


@dataclass(slots=True)
class Vm:
    """A running VM. `slot` has an address once it belongs to a machine."""

    name: str
    rundir: Path
    slot: NetSlot
    uid: int
    vmm: Vmm
    channel: GuestChannel

    @property
    def is_usable(self) -> bool:
        return self.channel.is_open

    def nice(self, value: int) -> None:
        """Sets the priority of all its threads."""
        for thread in self._threads():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.setpriority(os.PRIO_PROCESS, thread, value)

    def _threads(self) -> list[int]:
        try:
            return [int(task.name) for task in Path(f"/proc/{self.channel.shim.child_pid}/task").iterdir()]
        except FileNotFoundError:
            return []


class VmMaker:
    """Makes and removes VMs."""

    def __init__(self, settings: QemuSettings, net: NetPool, cgroups: CgroupTree) -> None:
        self._settings = settings
        self._net = net
        self._cgroups = cgroups

    def rundir(self, name: str) -> Path:
        return self._settings.rundir / name

    def memory(self, name: str) -> Path:
        """Where a new VM's memory lies."""
        return self._settings.memory_dir / name

    def memory_on_disk(self, name: str) -> Path:
        """Where it lies after a resume from disk."""
        return self._settings.layers / f"{name}.mem"

    def layer(self, name: str) -> Path:
        return self._settings.layers / name

    def names(self) -> set[str]:
        """VMs that have a run directory, whoever made them."""
        return {
            path.name for path in self._settings.rundir.iterdir() if path.is_dir() and not path.is_symlink()
        }

    async def sweep(self, claimed: set[str]) -> list[str]:
        """Removes what has no run directory any more: network slots, groups, files."""
        slots = set()
        for name in claimed:
            record = rundirs.read_record(self.rundir(name))
            if record is not None:
                slots.add(record.slot)
        removed = await self._net.sweep(slots)
        removed += await self._cgroups.sweep(claimed)
        for folder in (self._settings.memory_dir, self._settings.layers):
            for stray in folder.iterdir():
                if stray.is_file() and _is_ours(stray.name) and stray.stem not in claimed:
                    stray.unlink(missing_ok=True)
                    removed.append(str(stray))
        return removed

    async def reserve(self) -> NetSlot:
        """A place for a VM. Raises: NoCapacity, Unavailable, OSError."""
        return await self._net.reserve()

    async def unreserve(self, slot: NetSlot) -> None:
        """A place that is not needed after all. Raises: OSError."""
        await self._net.give_back(slot)

    async def restore(
        self,
        hardware: Hardware,
        open_files: OpenFiles,
        log: Path | None = None,
        *,
        slot: NetSlot | None = None,
    ) -> Vm:
        """A VM from saved state, which runs by itself as soon as it is restored. Nobody has spoken to it yet.

        Raises:
            DriverError, OutOfSpace, NoCapacity: nothing is left, nor is `slot` reserved any more.
        """
        vm = await self.spawn(hardware, open_files, log, slot=slot)
        self.begin_restore(vm)
        return vm

    def begin_restore(self, vm: Vm) -> None:
        """Has a VMM that waits read its state; the guest runs by itself once it is in. Returns at once."""
        vm.vmm.qmp.post("migrate-set-capabilities", capabilities=CAPABILITIES)
        vm.vmm.qmp.post("migrate-incoming", uri=f"fd:{STATE}")

    async def spawn(
        self,
        hardware: Hardware,
        open_files: OpenFiles,
        log: Path | None = None,
        *,
        slot: NetSlot | None = None,
    ) -> Vm:
        """A VMM that waits, with all its files, for `begin_restore`; in `slot` if one was reserved for it.

        Raises:
            DriverError, OutOfSpace, NoCapacity: nothing is left, nor is `slot` reserved any more.
        """
        slot = slot or await self.reserve()
        name = f"s{slot.number}"
        try:
            return await self._spawn(name, slot, hardware, open_files, log)
        except BaseException:
            await self._remove(name, slot)
            raise

    async def _spawn(
        self, name: str, slot: NetSlot, hardware: Hardware, open_files: OpenFiles, log: Path | None
    ) -> Vm:
        rundir = self.rundir(name)
        rundirs.fresh(rundir)
        rundirs.write_record(rundir, RunRecord(start_id="", slot=slot.name))
        uid = slot_uid(QEMU_UID_BASE, self._net.config.tag, slot.number)
        place = Place(
            rundir=rundir,
            log=log or rundir / "output.log",
            uid=uid,
            slot=slot,
            cgroup=self._cgroup(name, hardware),
        )
        with contextlib.ExitStack() as stack:
            # Joined even when cancelled: the stack closes what the thread still copies into.
            files = await joined_in_thread(open_files, stack, name, uid)
            vmm = await launch(self._settings.binary, hardware, place, files, kernel=None)
        try:
            return Vm(name, rundir, slot, uid, vmm, await vmm.process.attach())
        except BaseException:
            vmm.qmp.close()
            vmm.process.kill()
            vmm.process.release()
            raise

    async def assign(self, vm: Vm, address: IPv4Address, mac: str | None) -> None:
        """Gives the VM's network slot its machine's address."""
        vm.slot = await self._net.assign(vm.slot, address, mac)

    async def end(self, vm: Vm) -> None:
        """Ends a VM of this process and removes all of it. Raises: DriverError, OSError."""
        vm.vmm.qmp.close()
        try:
            await vm.channel.aclose()
            vm.vmm.process.kill()
            await self.remove(vm.name)
        finally:
            vm.vmm.process.release()

    async def remove(self, name: str) -> None:
        """Ends a VM and removes all of it, whoever made it. Repeatable."""
        record = None
        with contextlib.suppress(MidgeError):
            record = rundirs.read_record(self.rundir(name))
        slot = None
        if record is not None and record.slot:
            with contextlib.suppress(MidgeError, OSError):
                slot = await self._net.adopt(record.slot)
        await self._remove(name, slot)

    async def _remove(self, name: str, slot: NetSlot | None) -> None:
        await asyncio.to_thread(kill_leftover, self.rundir(name))
        cgroup = self._cgroups.get(name)
        if cgroup.exists():
            await cgroup.kill_all()
            await cgroup.remove()
        self.memory(name).unlink(missing_ok=True)
        self.memory_on_disk(name).unlink(missing_ok=True)
        self.layer(name).unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, self.rundir(name), ignore_errors=True)
        if slot is not None:  # last: whoever takes it next uses the name at once
            await self._net.give_back(slot)

    def _cgroup(self, name: str, hardware: Hardware) -> Cgroup:
        shape = hardware.shape
        limits = Limits(
            memory_bytes=(shape.memory_mb + VMM_OVERHEAD_MB) * MIB,
            cpus=float(shape.cpus),
            pids_max=PIDS_MAX,
        )
        return self._cgroups.create(name, limits)


def _is_ours(name: str) -> bool:
    """A file of a VM, or of a guest that was being booted; memory of suspended machines is none of these."""
    return name.startswith(("s", *SCRATCH_PREFIXES)) and not name.startswith(SUSPENDED_PREFIX)
