"""Containers that wait for a machine: launched from an image, init idle, nothing of a machine in them.

What the runtime's configuration fixes for good is in the slot's key, or the same for all machines of a host. The rest
is set at the start from outside: address, limits, host name, log; or told to init, as in every start.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from midge.drivers.container import overlay, uts
from midge.drivers.container.launch import Launcher, launch_error, launched
from midge.drivers.container.overlay import Lower
from midge.drivers.container.place import Place, Places
from midge.drivers.container.settings import ContainerSettings
from midge.drivers.instance import Instance
from midge.drivers.shim import ShimProcess
from midge.drivers.threads import all_of, joined_in_thread
from midge.drivers.warm import WarmPool
from midge.guest.channel import GuestChannel
from midge.guest.errors import ChannelLost
from midge.machine.spec import MachineSpec
from midge.sys.memory import available_ratio

HELLO_TIMEOUT_S = 10.0  # from the launch until init answers, on a loaded host
IMAGES_MAX = 256  # whose layers are remembered; the least lately used is forgotten
SLOT_COST_MB = 2  # init, shim, and the kernel's part: namespaces, mounts, groups
HOSTNAME = "localhost"  # of a container that waits


@dataclass(frozen=True, slots=True)
class SlotKey:
    """What a waiting container is good for: image by digest, and memory, half of which is the size of its /dev/shm."""

    image: str
    memory_mb: int


@dataclass(slots=True)
class Container:
    """A container whose init has answered.

    Attributes:
        lower: the image's layers when it was made.
        uts: descriptor of its UTS namespace.
    """

    place: Place
    process: ShimProcess
    channel: GuestChannel
    lower: Lower
    uts: int

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def is_usable(self) -> bool:
        """Whether it lives, on layers that are still the image's: one that was removed may have been pulled anew."""
        return self.channel.is_open and self.lower.is_there()


class LayerSource(Protocol):
    """The driver's view of the image store."""

    async def layer_dirs(self, digest: str) -> list[Path]:
        """Directories for overlayfs, topmost first; at least one."""
        ...


class Supply:
    """The pool of waiting containers of one host. `pool.run` is somebody else's task."""

    def __init__(
        self, settings: ContainerSettings, *, images: LayerSource, places: Places, launcher: Launcher
    ) -> None:
        self._images = images
        self._lower: OrderedDict[str, Lower] = OrderedDict()
        self._places = places
        self._launcher = launcher
        self.pool: WarmPool[SlotKey, Container] = WarmPool(
            settings.pool,
            make=self._make,
            end=self.end,
            cost_mb=lambda _: SLOT_COST_MB,
            available_ratio=available_ratio,
        )

    async def lower(self, digest: str) -> Lower:
        """The image's layers, which are not asked for again as long as they are where they were.

        Raises: ImageNotFound, OutOfSpace, DriverError.
        """
        known = self._lower.pop(digest, None)
        if known is None or not known.is_there():
            known = overlay.lower(await self._images.layer_dirs(digest))
        self._lower[digest] = known
        while len(self._lower) > IMAGES_MAX:
            self._lower.popitem(last=False)
        return known

    def want(self, spec: MachineSpec) -> None:
        """A machine like this is likely to start soon."""
        key = self._key(spec)
        if key is not None:
            self.pool.want(key)

    def take(self, spec: MachineSpec) -> Container | None:
        """A waiting container for this machine, or None. Never waits."""
        key = self._key(spec)
        return self.pool.take(key) if key is not None else None

    def _key(self, spec: MachineSpec) -> SlotKey | None:
        """None for machines that no waiting container can become: with a writable layer or no network of their own."""
        if spec.rootfs_persist or spec.network is None or not self._launcher.runtime.shares_kernel:
            return None
        return SlotKey(spec.image.digest, spec.shape.memory_mb)

    async def become(self, container: Container, spec: MachineSpec) -> None:
        """Makes a waiting container this machine's, but for what init is told. Raises: Conflict, OSError."""
        container.channel.set_log(Path(spec.log_path))
        naming = joined_in_thread(uts.set_hostname, container.uts, spec.hostname)
        try:
            await all_of(naming, self._places.assign(container.place, spec))
        finally:
            os.close(container.uts)

    async def end(self, container: Container) -> None:
        """Ends a container that nobody took. Raises: DriverError, DeadlineExceeded, OSError."""
        os.close(container.uts)
        instance = Instance(container.place.rundir, container.channel, container.process)
        await self._places.remove(container.name, instance)

    async def _make(self, key: SlotKey) -> Container:
        lower = await self.lower(key.image)
        place = await self._places.make(lower.paths)
        instance = None
        try:
            self._launcher.write_bundle(place, HOSTNAME, key.memory_mb)
            process = await self._launcher.launch(place, place.rundir / "output.log")
            channel = await process.attach()
            instance = Instance(place.rundir, channel, process)
            await channel.hello(timeout_s=HELLO_TIMEOUT_S)
            init = await launched(place.rundir)
            namespace = uts.open_namespace(init, place.cgroup)
        except BaseException as error:
            reason = launch_error(place.name, place.rundir) if isinstance(error, ChannelLost) else None
            await self._places.remove(place.name, instance)
            if reason is not None:
                raise reason from error
            raise
        return Container(place, process, channel, lower, namespace)
