"""Which machine runs in which VM of this host, and the guests in hand.

A VM belongs to a machine from its record and link on (`claim`), before the guest is told anything, until `clear`. Both
are on file, so that the next worker finds them (`adopt`, `recover`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path

import structlog

from midge.drivers import rundir as rundirs
from midge.drivers import shim, shim_files
from midge.drivers.base import Handle
from midge.drivers.instance import Instance, exit_status, is_over
from midge.drivers.links import MachineLinks
from midge.drivers.qemu import saving
from midge.drivers.qemu.vm import Vm, VmMaker
from midge.drivers.rundir import RunRecord
from midge.errors import DriverError, MidgeError, NotRunning, chain
from midge.guest.channel import GuestChannel
from midge.machine.spec import ExitStatus, MachineSpec
from midge.net.pool import NetPool

_log = structlog.get_logger("midge.qemu")


class Residents:
    """See the module.

    Args:
        address_free: waits until no VM of an earlier run holds the machine's address.
    """

    def __init__(
        self,
        links: MachineLinks,
        vms: VmMaker,
        net: NetPool,
        address_free: Callable[[str], Awaitable[None]],
    ) -> None:
        self.links = links
        self._in_hand: dict[str, tuple[str, Instance]] = {}  # by machine: start_id and guest of its run
        self._vms = vms
        self._net = net
        self._address_free = address_free

    def find(self, handle: Handle) -> Instance | None:
        """The guest of this very run, if it is in hand. Raises: HandleUnknown."""
        handle.check()
        start_id, instance = self._in_hand.get(handle.machine_id, ("", None))
        return instance if start_id == handle.start_id else None

    def instance(self, handle: Handle) -> Instance:
        """Raises: NotRunning, HandleUnknown."""
        instance = self.find(handle)
        if instance is None:
            raise _not_running(handle)
        return instance

    def hold(self, machine_id: str, start_id: str, instance: Instance) -> None:
        """Takes a guest in hand."""
        self._in_hand[machine_id] = (start_id, instance)

    def let_go(self, machine_id: str) -> None:
        """Of a guest that is somebody else's to care for from now on."""
        del self._in_hand[machine_id]

    async def take_over(self, machine_id: str, start_id: str, name: str, channel: GuestChannel) -> None:
        """Takes a guest in hand by a new channel, which has cut off the one before if there was one."""
        _, before = self._in_hand.pop(machine_id, ("", None))
        if before is not None:
            await before.channel.aclose()
        process = before.process if before is not None else None
        self.hold(machine_id, start_id, Instance(self._vms.rundir(name), channel, process))

    def recorded_exit(self, handle: Handle) -> ExitStatus:
        """How a run ended that is not in hand, as its shim has it. Raises: NotRunning: nothing is left of it."""
        name = self.vm_of(handle.machine_id, handle.start_id)
        if name is None:
            raise _not_running(handle)
        found = shim_files.read_state(self._vms.rundir(name))
        return exit_status(found.exit, found.ended)

    def vm_of(self, machine_id: str, start_id: str) -> str | None:
        """The name of the VM that this run of the machine has, by its record."""
        name = self.links.find(machine_id)
        record = rundirs.read_record(self._vms.rundir(name)) if name else None
        return name if record is not None and record.start_id == start_id else None

    async def claim(self, vm: Vm, spec: MachineSpec) -> None:
        """Writes down whose VM this is, then gives it the machine's address."""
        await self._address_free(spec.machine_id)
        self.write(spec, vm.name, vm.slot.name, vm.uid)
        await self._vms.assign(vm, _address(spec), spec.network.mac if spec.network else None)

    def write(self, spec: MachineSpec, name: str, slot: str, uid: int) -> None:
        """Record first: a link whose record tells of another run means that this one has not begun.

        The guest is told right after this, or runs on in the machine's name: it counts as told.
        """
        data = {"machine": spec.machine_id, "uid": uid}
        record = RunRecord(start_id=spec.start_id, slot=slot, told=True, data=data)
        rundirs.write_record(self._vms.rundir(name), record)
        self.links.link(spec.machine_id, name)

    def running(self, vm: Vm, spec: MachineSpec) -> Handle:
        """The guest runs its process: from here on it is in hand."""
        vm.vmm.qmp.close()
        self.hold(spec.machine_id, spec.start_id, Instance(vm.rundir, vm.channel, vm.vmm.process))
        return handle_of(spec, vm.name)

    async def abandon(self, vm: Vm, machine_id: str) -> None:
        """Removes a VM whose start has failed; what cannot be removed is nobody's, and a later start clears it."""
        with contextlib.suppress(OSError):
            rundirs.write_record(vm.rundir, RunRecord(start_id="", slot=vm.slot.name))
        await self._vms.end(vm)
        self.links.unlink(machine_id)

    async def adopt(self, spec: MachineSpec) -> Handle | None:
        """The run that this very start has made, whether it runs or has ended; anything else is cleared away."""
        if self.links.find(spec.machine_id) is None:
            return None
        name = self.vm_of(spec.machine_id, spec.start_id)
        if name is not None and (await self._runs_on(spec, name) or self._is_over(name)):
            return handle_of(spec, name)
        await self.clear(spec.machine_id)
        return None

    async def _runs_on(self, spec: MachineSpec, name: str) -> bool:
        """Takes a guest in hand that runs its process."""
        channel = await self.attach(name)
        if channel is None:
            return False
        if channel.guest is None or channel.guest.state != "running":
            await channel.aclose()
            return False
        await self.take_over(spec.machine_id, spec.start_id, name, channel)
        return True

    def _is_over(self, name: str) -> bool:
        rundir = self._vms.rundir(name)
        record = rundirs.read_record(rundir)
        return record is not None and is_over(record, shim_files.read_state(rundir))

    async def attach(self, name: str) -> GuestChannel | None:
        """A channel to a guest that runs and has not ended; None otherwise."""
        rundir = self._vms.rundir(name)
        found = shim_files.read_state(rundir)
        if not found.shim_alive or found.exit is not None:
            return None
        if not await saving.run_on(rundir):
            return None
        channel = None
        try:
            channel = await shim.attach(rundir)
            # It may have stood still for a while, and its worker died before it was told the time.
            await saving.wake(channel)
        except MidgeError as error:
            _log.warning("guest does not answer", vm=name, error=chain(error))
            if channel is not None:
                await channel.aclose()
            return None
        record = rundirs.read_record(rundir)
        if record is not None:
            await self._net.adopt(record.slot)
        return channel

    async def clear(self, machine_id: str) -> None:
        """Ends the machine's VM if it has one, and removes all of it. Repeatable."""
        _, instance = self._in_hand.pop(machine_id, ("", None))
        if instance is not None:
            await instance.end(grace_s=0.0)
        name = self.links.find(machine_id)
        if name is not None:
            await self._vms.remove(name)
            self.links.unlink(machine_id)

    def rundir(self, name: str) -> Path:
        return self._vms.rundir(name)

    async def aclose(self) -> None:
        """Lets go of all guests; they run on."""
        for _, instance in self._in_hand.values():
            await instance.detach()
        self._in_hand.clear()


def _not_running(handle: Handle) -> NotRunning:
    return NotRunning(f"machine {handle.machine_id} does not run here")


def handle_of(spec: MachineSpec, name: str) -> Handle:
    return Handle(driver="qemu", machine_id=spec.machine_id, start_id=spec.start_id, data={"vm": name})


def _address(spec: MachineSpec) -> IPv4Address:
    if spec.network is None:
        raise DriverError(f"machine {spec.machine_id} has no address")
    return IPv4Address(spec.network.ipv4)
