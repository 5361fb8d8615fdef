"""What a container lives in, made before it and removed after it. Knows nothing of which machine it is for.

```
rundir/s12/    sockets, records and bundle of the container in network slot 12
layers/s12/    its writable layer
cgroup s12, network namespace …-12
```

Everything is named after the number of the network slot, so that what a dead worker left can be found and removed
by name alone.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import structlog

from midge.cgroup import Cgroup, CgroupTree
from midge.drivers import rundir as rundirs
from midge.drivers import shim, shim_files
from midge.drivers.container import overlay
from midge.drivers.container.groups import Groups
from midge.drivers.container.overlay import Layers
from midge.drivers.container.run import end
from midge.drivers.container.settings import ContainerSettings
from midge.drivers.instance import Instance, kill_leftover
from midge.drivers.rundir import RunRecord
from midge.drivers.threads import all_of, joined, joined_in_thread
from midge.errors import MidgeError
from midge.guest.errors import ChannelLost
from midge.machine.spec import MachineSpec
from midge.net.pool import NetPool
from midge.net.slot import NetSlot

ROOT_NAME = "root"
ALONE_PREFIX = "alone-"  # names of containers without a network slot
REMOVE_ATTEMPTS = 50  # times a run directory is emptied before it is left to the next sweep
REMOVE_PAUSE_S = 0.02

_log = structlog.get_logger("midge.drivers.container")


@dataclass(slots=True, kw_only=True)
class Place:
    """Where one container runs.

    Attributes:
        cgroups_path: where the runtime is to put the container, in every hierarchy.
        slot: has an address once it belongs to a machine; None for a container without a network.
        lower: the image's layers, topmost first.
        persist: whether `layers` outlives the container.
    """

    name: str
    rundir: Path
    slot: NetSlot | None
    cgroup: Cgroup
    cgroups_path: str
    lower: tuple[Path, ...]
    layers: Layers
    persist: bool

    @property
    def root(self) -> Path:
        return self.rundir / ROOT_NAME

    @property
    def root_options(self) -> str:
        """Mount options of its root."""
        return self.layers.options(self.lower, persist=self.persist)


class Places:
    """Makes and removes places."""

    def __init__(self, settings: ContainerSettings, net: NetPool, cgroups: CgroupTree) -> None:
        self._settings = settings
        self._net = net
        self.groups = Groups(cgroups, settings.pids_max)

    def open(self) -> None:
        """Folders and parents of groups. Raises: OSError."""
        for folder in (self._settings.rundir, self._settings.layers, self._settings.machines):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.groups.open()

    def rundir(self, name: str) -> Path:
        return self._settings.rundir / name

    def names(self) -> set[str]:
        """Containers that have a run directory, whoever made them."""
        return {
            path.name for path in self._settings.rundir.iterdir() if path.is_dir() and not path.is_symlink()
        }

    async def make(
        self, lower: Sequence[Path], *, network: bool = True, persistent: Layers | None = None
    ) -> Place:
        """A place without address and limits.

        Args:
            network: False: there will be nothing but loopback.
            persistent: the writable layer, where it is to be one that outlives the container.

        Raises:
            ImageNotFound, OutOfSpace, NoCapacity, DriverError, OSError: nothing is left.
        """
        slot = await self._net.reserve("veth") if network else None
        name = f"s{slot.number}" if slot else ALONE_PREFIX + secrets.token_hex(4)
        try:
            await self.groups.remove(name)
            return await joined_in_thread(self._furnish, name, slot, tuple(lower), persistent)
        except BaseException:
            await joined(self._remove(name, slot))
            raise

    def _furnish(
        self, name: str, slot: NetSlot | None, lower: tuple[Path, ...], persistent: Layers | None
    ) -> Place:
        rundir = self.rundir(name)
        layers = persistent or self._layers(name)
        rundirs.fresh(rundir)
        rundirs.write_record(rundir, RunRecord(start_id="", slot=slot.name if slot else ""))
        (rundir / ROOT_NAME).mkdir()
        layers.make(lower, persist=persistent is not None)
        return Place(
            name=name,
            rundir=rundir,
            slot=slot,
            cgroup=self.groups.create(name),
            cgroups_path=self.groups.path(name),
            lower=lower,
            layers=layers,
            persist=persistent is not None,
        )

    async def assign(self, place: Place, spec: MachineSpec) -> None:
        """Gives a place its machine's address and limits; its container may run already.

        Raises: Conflict: the address is another's. OSError.
        """
        # The address is a thread's work: it begins first, and the limits are set while it is under way.
        await all_of(self._address(place, spec), self._limit(place, spec))

    async def _address(self, place: Place, spec: MachineSpec) -> None:
        if place.slot is not None and spec.network is not None:
            address = IPv4Address(spec.network.ipv4)
            place.slot = await self._net.assign(place.slot, address, spec.network.mac)

    async def _limit(self, place: Place, spec: MachineSpec) -> None:
        self.groups.limit(place.cgroup, spec)

    async def remove(self, name: str, instance: Instance | None = None) -> None:
        """Ends a container and removes all of it, whoever made it. Repeatable, in whatever state it was left.

        Args:
            instance: where somebody is attached to it already.

        Raises: DriverError, DeadlineExceeded: something does not die. OSError.
        """
        rundir = self.rundir(name)
        # A shim knows what it has launched, also while the runtime has not said so yet.
        instance = instance or await _attached(rundir)
        if instance is not None:
            await end(instance, self.groups.get(name))
        slot = None
        with suppress(MidgeError):
            record = rundirs.read_record(rundir)
            if record is not None and record.slot:
                slot = await self._net.adopt(record.slot)
        # Whoever is cancelled after the record is gone would leave the slot, and with it the address, to nobody.
        await joined(self._remove(name, slot))

    async def _remove(self, name: str, slot: NetSlot | None) -> None:
        rundir = self.rundir(name)
        # In this order: what is frozen dies only when its group is thawed.
        await self.groups.remove(name)
        await asyncio.to_thread(kill_leftover, rundir)
        await asyncio.to_thread(self._remove_files, rundir, self._layers(name))
        if slot is not None:  # last: the number is the name
            await self._net.give_back(slot)

    def _remove_files(self, rundir: Path, layers: Layers) -> None:
        overlay.unmount(rundir / ROOT_NAME)
        layers.discard()
        # A runtime that has just been killed may still add a file while the directory is emptied.
        for _ in range(REMOVE_ATTEMPTS):
            shutil.rmtree(rundir, ignore_errors=True)
            if not rundir.exists():
                return
            time.sleep(REMOVE_PAUSE_S)
        _log.warning("run directory is left to the next sweep", path=str(rundir))

    def _layers(self, name: str) -> Layers:
        return Layers(self._settings.layers / name)

    async def sweep(self, claimed: Collection[str]) -> list[str]:
        """Removes containers that are not claimed, and what has no run directory any more."""
        strays = sorted(self.names() - set(claimed))
        for name in strays:
            await self.remove(name)
        slots = {record.slot for name in claimed if (record := rundirs.read_record(self.rundir(name)))}
        removed = [*strays, *await self._net.sweep(slots), *await self.groups.sweep(claimed)]
        for folder in self._settings.layers.iterdir():
            if folder.is_dir() and folder.name not in claimed and folder.name.startswith(("s", ALONE_PREFIX)):
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                removed.append(str(folder))
        return removed


async def _attached(rundir: Path) -> Instance | None:
    if not shim_files.read_state(rundir).shim_alive:
        return None
    try:
        return Instance(rundir, await shim.attach(rundir))
    except ChannelLost:
        return None
