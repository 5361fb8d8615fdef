"""From a machine's specification to a container whose process runs."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from midge.drivers import shim, shim_files
from midge.drivers.base import Trace
from midge.drivers.configure import ENTROPY_BYTES, configure, guest_files
from midge.drivers.container import overlay, spec
from midge.drivers.container.place import Place
from midge.drivers.container.runtime import Runtime
from midge.drivers.container.settings import ContainerSettings
from midge.drivers.guest_start import run_guest
from midge.drivers.instance import Instance
from midge.errors import DriverError, MidgeError, OutOfSpace
from midge.guest.channel import GuestChannel
from midge.guest.errors import ChannelLost
from midge.guest.files import GuestFile
from midge.machine.spec import MachineSpec

PID_NAME = "pid"
STATE_NAME = "runtime"
# Environment of shim and runtime; nothing of it reaches the container.
ENVIRONMENT = {"PATH": os.defpath, "HOME": "/"}
LAUNCHED_TIMEOUT_S = 10.0  # from init's first answer until its runtime has ended, on a loaded host
_LOOK_S, _LOOK_MAX_S = 0.001, 0.05  # between looks for that; doubled each time
_LAST_WORDS = 600  # characters of a runtime's message that are worth showing
# logrus, which runc and runsc log with; crun writes plain text.
_MESSAGE = re.compile(r'level=(?:error|fatal) msg="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """What all starts of a driver share."""

    settings: ContainerSettings
    runtime: Runtime
    init: Path
    seccomp: dict[str, Any] | None

    @property
    def overlay_inside(self) -> bool:
        """Whether the runtime mounts the root, in the container's own mount namespace."""
        wish = self.settings.mount_root
        return self.runtime.mounts_overlay if wish == "auto" else wish == "runtime"

    def write_bundle(self, place: Place, hostname: str, memory_mb: int) -> None:
        """Root and config.json of the container. Raises: DriverError, OSError."""
        if not self.overlay_inside:
            overlay.mount(place.root, place.root_options)
        bundle = spec.Bundle(
            root=place.root,
            overlay=place.root_options if self.overlay_inside else None,
            init=self.init,
            hostname=hostname,
            netns=place.slot.netns_path if place.slot else None,
            cgroups_path=place.cgroups_path,
            memory_mb=memory_mb,
            oom_score=self.settings.oom_score,
            nofile=min(spec.NOFILE_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            seccomp=self.seccomp,
        )
        (place.rundir / "config.json").write_bytes(msgspec.json.encode(spec.config(bundle)))

    async def launch(self, place: Place, log: Path) -> shim.ShimProcess:
        """Starts shim and runtime. The runtime goes on by itself; how it fares is heard over the channel.

        Raises: DriverError: it could not be executed.
        """
        rundir = place.rundir
        words = self.runtime.command(
            place.name, bundle=rundir, state=rundir / STATE_NAME, pid_file=rundir / PID_NAME
        )
        return await shim.launch(
            shim.ShimSpec(
                rundir=rundir,
                program=words,
                log=log,
                channel=spec.CONTROL_FD,
                pid_file=rundir / PID_NAME,
                pass_fds=self.runtime.pass_fds,
                env=ENVIRONMENT,
            )
        )

    async def run_guest(
        self,
        machine: MachineSpec,
        process: shim.ShimProcess,
        channel: GuestChannel | None = None,
        trace: Trace | None = None,
    ) -> Instance:
        """Tells init who it is; the words wait in its socket while the runtime still works.

        Args:
            channel: to its shim, where there is one already.

        Raises:
            OutOfSpace, DriverError: the container did not come up; the message has the runtime's own.
        """
        message = configure(
            # Named from outside, by the runtime or in `uts`: init has no right to.
            msgspec.structs.replace(machine, hostname=""),
            entropy=os.urandom(ENTROPY_BYTES),
            wall_clock_ns=time.time_ns(),
            root=None,
            net=None,
            nameservers=self.settings.nameservers(),
            container=True,
        )
        try:
            channel = channel or await process.attach()
            await run_guest(channel, message, _files(machine), trace)
        except BaseException as error:
            # `process` is not released: whoever clears up ends the shim, and it is reaped then.
            if channel is not None:
                await channel.aclose()
            if isinstance(error, ChannelLost):
                raise launch_error(machine.machine_id, process.rundir) from error
            raise
        return Instance(process.rundir, channel, process)


async def launched(rundir: Path) -> int:
    """The pid of a container's init, once the runtime has ended: from then on the shim has it in hand.

    Raises:
        DriverError: it has ended already, or the runtime does not end.
    """
    pause_s, waited_s = _LOOK_S, 0.0
    while waited_s < LAUNCHED_TIMEOUT_S:
        found = shim_files.read_state(rundir)
        if found.child_alive and found.record is not None:
            return found.record.child_pid
        if found.ended is not None or not found.shim_alive:
            break
        await asyncio.sleep(pause_s)
        waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, _LOOK_MAX_S)
    raise launch_error(rundir.name, rundir)


def _files(machine: MachineSpec) -> tuple[GuestFile, ...]:
    """Those of the configuration, after the one that says the container's name."""
    hostname = GuestFile(path="/etc/hostname", content=f"{machine.hostname}\n".encode(), mode=0o644)
    return (hostname, *guest_files(machine))


def launch_error(name: str, rundir: Path) -> MidgeError:
    """Why a container did not come up, from what its shim has written."""
    ended = shim_files.read_state(rundir).ended
    reason = runtime_message(ended.error or "") if ended else ""
    text = f"container {name} did not come up: {reason or 'its runtime said nothing'}"
    if "no space left on device" in reason.lower():
        return OutOfSpace(text, hint="free disk space")
    return DriverError(text, hint=f"see {rundir / 'vmm.log'}")


def runtime_message(text: str) -> str:
    """The last error in what a runtime has written, or all of it."""
    found = _MESSAGE.findall(text)
    words = found[-1].replace('\\"', '"') if found else text
    return " ".join(words.split())[-_LAST_WORDS:]
