"""From a machine's place to a guest that runs in it: the same for a start and for a resume."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midge.drivers import shim
from midge.drivers.base import Trace
from midge.drivers.configure import ENTROPY_BYTES, configure, guest_files
from midge.drivers.firecracker import boot
from midge.drivers.firecracker.guest import greet, limit_requests, load_request
from midge.drivers.firecracker.launch import Place, connect, file_bytes_max, last_words, launch
from midge.drivers.firecracker.settings import FirecrackerSettings
from midge.drivers.firecracker.suspend import NAMES
from midge.drivers.firecracker.version import Programs
from midge.drivers.guest_start import run_guest
from midge.drivers.instance import Instance
from midge.errors import DriverError
from midge.guest import messages as m
from midge.guest.channel import GuestChannel
from midge.guest.errors import ChannelLost
from midge.machine.spec import MachineSpec

GUEST_TIMEOUT_S = 30.0  # until a restored guest answers and has set itself up


@dataclass(frozen=True, slots=True)
class Starter:
    """What all starts of a driver share."""

    settings: FirecrackerSettings
    programs: Programs

    async def restore(
        self, spec: MachineSpec, place: Place, snapshot: dict[str, Any] | None, trace: Trace
    ) -> shim.ShimProcess:
        """A VMM in a furnished jail, whose guest runs on from where it was saved."""
        tap = place.slot.guest_ifname
        request = load_request(
            self.programs.version,
            tap=tap,
            snapshot=snapshot,
            track_dirty_pages=self.settings.track_dirty_pages,
        )
        limit = file_bytes_max(spec.shape, self.settings.rootfs_mb)
        process = await launch(self.programs, place, file_bytes_max=limit)
        trace.mark("launch")
        try:
            async with await connect(place.jail) as api:
                await api.load_snapshot(request)
                for body in limit_requests(self.settings):
                    await api.send(body)
        except BaseException:
            process.release()
            raise
        trace.mark("restore")
        return process

    async def enter(
        self,
        spec: MachineSpec,
        place: Place,
        process: shim.ShimProcess,
        tell: Callable[[GuestChannel], Awaitable[None]],
    ) -> Instance:
        """Greets a guest that runs, and tells it what it has to know. Raises: DriverError, GuestRefused."""
        channel = None
        try:
            channel = await process.attach()
            async with asyncio.timeout(GUEST_TIMEOUT_S):
                await greet(channel, GUEST_TIMEOUT_S, resume=True)
                await tell(channel)
        except BaseException as error:
            if channel is not None:
                await channel.aclose()
            process.release()
            if isinstance(error, ChannelLost | TimeoutError):
                raise DriverError(
                    f"machine {spec.machine_id} did not come up: {last_words(place.rundir)}",
                    hint=f"see {place.rundir / 'vmm.log'}",
                ) from error
            raise
        return Instance(place.rundir, channel, process)

    async def configure(self, spec: MachineSpec, place: Place, trace: Trace, channel: GuestChannel) -> None:
        """Tells a guest from a template who it is, and runs its process."""
        slot = place.slot
        message = configure(
            spec,
            entropy=os.urandom(ENTROPY_BYTES),
            wall_clock_ns=time.time_ns(),
            root=m.Root(lower="/dev/vda", upper="/dev/vdb", persist=spec.rootfs_persist),
            net=m.Net(
                mac=slot.mac or "",
                addresses=(f"{slot.ip}/32",),
                gateway=str(slot.gateway),
                mtu=slot.mtu,
            ),
            nameservers=self.settings.nameservers(),
        )
        await run_guest(channel, message, guest_files(spec), trace)


async def wake(channel: GuestChannel) -> None:
    """What a guest has to know that was away: the time, and that its random numbers are used up."""
    await channel.resume(m.Resume(wall_clock_ns=time.time_ns(), entropy=os.urandom(ENTROPY_BYTES)))


def furnish(place: Place, lower: Path, upper: Path, saved: Path) -> None:
    """Puts disks and the saved guest into a jail."""
    jail = place.jail
    jail.add(lower, boot.LOWER)
    jail.add_writable(upper, boot.UPPER)
    for name in NAMES:
        jail.add(saved / name, name)
