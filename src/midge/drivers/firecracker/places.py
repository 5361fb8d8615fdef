"""Where a machine's things are, making them for a run and removing them after it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from ipaddress import IPv4Address
from pathlib import Path

from midge.cgroup import Cgroup, CgroupTree, Limits
from midge.drivers import disks
from midge.drivers import rundir as rundirs
from midge.drivers.firecracker import boot
from midge.drivers.firecracker.jail import Jail, leftovers
from midge.drivers.firecracker.launch import Place
from midge.drivers.firecracker.settings import FirecrackerSettings
from midge.drivers.firecracker.suspend import thaw
from midge.drivers.instance import kill_leftover
from midge.drivers.rundir import RunRecord
from midge.drivers.threads import joined
from midge.drivers.vmm_user import FIRECRACKER_UID_BASE, slot_uid
from midge.errors import DriverError, NotFound
from midge.machine.spec import MIB, MachineSpec
from midge.net.pool import NetPool
from midge.net.slot import NetSlot

VMM_OVERHEAD_MB = 64  # Firecracker's own memory, and the jailer's copy of its program
PIDS_MAX = 128  # threads of a VMM: one a vCPU, API, VMM
UPPER_NAME = "upper.ext4"
PERSIST_NAME = "persist"  # in the machine's folder: its writable disk outlives a run


class Places:
    """Run directories, jails, control groups, network slots and disks of one host's machines."""

    def __init__(
        self, settings: FirecrackerSettings, program: str, *, net: NetPool, cgroups: CgroupTree
    ) -> None:
        self._settings = settings
        self._program = program
        self._net = net
        self._cgroups = cgroups

    def rundir(self, machine_id: str) -> Path:
        return self._settings.rundir / machine_id

    def upper(self, machine_id: str) -> Path:
        return self._settings.machines / machine_id / UPPER_NAME

    def cgroup(self, machine_id: str) -> Cgroup:
        return self._cgroups.get(machine_id)

    def jail(self, machine_id: str, uid: int = 0) -> Jail:
        """`uid` is needed for everything but removing it."""
        return Jail(self._settings.jails, self._program, machine_id, uid)

    async def make(self, spec: MachineSpec) -> Place:
        """Everything a VMM needs to run, but what is in its jail. What is made is on record before anything runs.

        Raises:
            DriverError, NoCapacity, OSError: what was made until then is removed by `clear`.
        """
        rundir = self.rundir(spec.machine_id)
        address = _address(spec)
        await asyncio.to_thread(rundirs.fresh, rundir)
        slot = await self._net.take("tap", address, spec.network.mac if spec.network else None)
        jail = self.jail(spec.machine_id, slot_uid(FIRECRACKER_UID_BASE, self._net.config.tag, slot.number))
        # No await in between: whoever is cancelled here has the slot on record.
        rundirs.write_record(
            rundir, RunRecord(start_id=spec.start_id, slot=slot.name, data={"uid": jail.uid})
        )
        limits = Limits(
            memory_bytes=(spec.shape.memory_mb + VMM_OVERHEAD_MB) * MIB,
            cpus=float(spec.shape.cpus),
            pids_max=PIDS_MAX,
        )
        cgroup = self._cgroups.create(spec.machine_id, limits)
        await asyncio.to_thread(jail.make)
        return Place(rundir=rundir, log=Path(spec.log_path), jail=jail, slot=slot, cgroup=cgroup)

    def make_upper(self, spec: MachineSpec, uid: int, blank: Path) -> Path:
        """The machine's writable disk, blank unless it persists. Blocks. Raises: OutOfSpace, OSError."""
        path = self.upper(spec.machine_id)
        marker = path.with_name(PERSIST_NAME)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not spec.rootfs_persist:
            marker.unlink(missing_ok=True)
        elif marker.exists() and path.exists():
            os.chown(path, uid, uid)
            return path
        with contextlib.ExitStack() as stack:
            target = disks.opened(stack, disks.create(path, uid))
            disks.copy_sparse(disks.opened(stack, disks.read_only(blank)), target)
        if spec.rootfs_persist:
            marker.touch()
        return path

    def own_upper(self, machine_id: str, uid: int) -> None:
        """Gives a suspended machine's disk to its next VMM, which has another slot and so another user.

        Blocks. Raises: OSError.
        """
        os.chown(self.upper(machine_id), uid, uid)

    async def adopt_slot(self, name: str) -> NetSlot:
        return await self._net.adopt(name)

    async def clear(self, machine_id: str, *, keep_upper: bool) -> None:
        """Ends what still runs and gives everything of a run back. Repeatable.

        Args:
            keep_upper: the writable disk belongs to a snapshot.
        """
        rundir = self.rundir(machine_id)
        cgroup = self.cgroup(machine_id)
        # One that was frozen for a snapshot dies only when it may run; its guest is paused besides.
        thaw(cgroup)
        await asyncio.to_thread(kill_leftover, rundir)
        if cgroup.exists():
            await cgroup.kill_all()
            await cgroup.remove()
        record = rundirs.read_record(rundir)
        slot = None
        if record is not None and record.slot:
            with contextlib.suppress(NotFound):
                slot = await self._net.adopt(record.slot)
        # Whoever is cancelled after the record is gone would leave the slot to nobody.
        await joined(self._remove(machine_id, slot, keep_upper=keep_upper))

    async def _remove(self, machine_id: str, slot: NetSlot | None, *, keep_upper: bool) -> None:
        """The slot last: its number is the VMM's user, and who still has files of that user still has the slot."""
        await asyncio.to_thread(self.jail(machine_id).remove)
        upper = self.upper(machine_id)
        if not keep_upper and not upper.with_name(PERSIST_NAME).exists():
            upper.unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, self.rundir(machine_id), ignore_errors=True)
        if slot is not None:
            await self._net.give_back(slot)

    async def remove(self, machine_id: str) -> None:
        """As `clear`, and the machine's disk."""
        await self.clear(machine_id, keep_upper=False)
        await asyncio.to_thread(shutil.rmtree, self.upper(machine_id).parent, ignore_errors=True)

    def machines(self) -> set[str]:
        """Every machine, and every boot of a dead worker, that has anything here."""
        found = {path.name for path in self._settings.machines.iterdir()}
        found |= {path.name for path in self._settings.rundir.iterdir()}
        found |= set(leftovers(self._settings.jails, self._program))
        return {name for name in found if not boot.is_ours(name)}

    async def sweep(self, known: set[str]) -> list[str]:
        """Removes slots and groups that belong to nobody; returns their names."""
        claimed = set()
        for rundir in self._settings.rundir.iterdir():
            record = rundirs.read_record(rundir)
            if record is not None:
                claimed.add(record.slot)
        return [*await self._net.sweep(claimed), *await self._cgroups.sweep(known)]


def _address(spec: MachineSpec) -> IPv4Address:
    if spec.network is None:
        raise DriverError(f"machine {spec.machine_id} has no address")
    return IPv4Address(spec.network.ipv4)
