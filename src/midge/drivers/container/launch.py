"""From a machine's specification to a container whose process runs."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from midge.drivers import shim, shim_files
from midge.drivers.configure import ENTROPY_BYTES, configure, guest_files
from midge.drivers.container import overlay, spec
from midge.drivers.container.overlay import Layers
from midge.drivers.container.runtime import Runtime
from midge.drivers.container.settings import ContainerSettings
from midge.drivers.guest_start import run_guest
from midge.drivers.instance import Instance
from midge.errors import DriverError, MidgeError, OutOfSpace
from midge.guest.errors import ChannelLost
from midge.guest.files import GuestFile
from midge.machine.spec import MachineSpec
from midge.net.slot import NetSlot

ROOT_NAME = "root"
PID_NAME = "pid"
STATE_NAME = "runtime"
# Environment of shim and runtime; nothing of it reaches the container.
ENVIRONMENT = {"PATH": os.defpath, "HOME": "/"}
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

    def write_bundle(
        self,
        machine: MachineSpec,
        rundir: Path,
        layers: Layers,
        lower: Sequence[Path],
        slot: NetSlot | None,
        cgroups_path: str,
    ) -> None:
        """Root and config.json of the container. Raises: DriverError, OSError."""
        root = rundir / ROOT_NAME
        root.mkdir()
        options = layers.options(lower, persist=machine.rootfs_persist)
        if not self.overlay_inside:
            overlay.mount(root, options)
        bundle = spec.Bundle(
            root=root,
            overlay=options if self.overlay_inside else None,
            init=self.init,
            hostname=machine.hostname,
            netns=slot.netns_path if slot else None,
            cgroups_path=cgroups_path,
            memory_mb=machine.shape.memory_mb,
            oom_score=self.settings.oom_score,
            nofile=min(spec.NOFILE_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            seccomp=self.seccomp,
        )
        (rundir / "config.json").write_bytes(msgspec.json.encode(spec.config(bundle)))

    async def launch(self, machine: MachineSpec, rundir: Path) -> shim.ShimProcess:
        """Starts shim and runtime. The runtime goes on by itself; how it fares is heard over the channel.

        Raises: DriverError: it could not be executed.
        """
        words = self.runtime.command(
            machine.machine_id, bundle=rundir, state=rundir / STATE_NAME, pid_file=rundir / PID_NAME
        )
        return await shim.launch(
            shim.ShimSpec(
                rundir=rundir,
                program=words,
                log=Path(machine.log_path),
                channel=spec.CONTROL_FD,
                pid_file=rundir / PID_NAME,
                pass_fds=self.runtime.pass_fds,
                env=ENVIRONMENT,
            )
        )

    async def run_guest(self, machine: MachineSpec, process: shim.ShimProcess) -> Instance:
        """Tells init who it is; the words wait in its socket while the runtime still works.

        Raises:
            OutOfSpace, DriverError: the container did not come up; the message has the runtime's own.
        """
        message = configure(
            # The runtime names the container: init has no right to, in a namespace of others' making.
            msgspec.structs.replace(machine, hostname=""),
            entropy=os.urandom(ENTROPY_BYTES),
            wall_clock_ns=time.time_ns(),
            root=None,
            net=None,
            nameservers=self.settings.nameservers,
            container=True,
        )
        channel = None
        try:
            channel = await process.attach()
            await run_guest(channel, message, _files(machine))
        except BaseException as error:
            # `process` is not released: whoever clears up ends the shim, and it is reaped then.
            if channel is not None:
                await channel.aclose()
            if isinstance(error, ChannelLost):
                raise launch_error(machine.machine_id, process.rundir) from error
            raise
        return Instance(process.rundir, channel, process)


def _files(machine: MachineSpec) -> tuple[GuestFile, ...]:
    """Those of the configuration, after the one that says the container's name."""
    hostname = GuestFile(path="/etc/hostname", content=f"{machine.hostname}\n".encode(), mode=0o644)
    return (hostname, *guest_files(machine))


def launch_error(machine_id: str, rundir: Path) -> MidgeError:
    """Why a container did not come up, from what its shim has written."""
    ended = shim_files.read_state(rundir).ended
    reason = runtime_message(ended.error or "") if ended else ""
    text = f"container of machine {machine_id} did not come up: {reason or 'its runtime said nothing'}"
    if "no space left on device" in reason.lower():
        return OutOfSpace(text, hint="free disk space")
    return DriverError(text, hint=f"see {rundir / 'vmm.log'}")


def runtime_message(text: str) -> str:
    """The last error in what a runtime has written, or all of it."""
    found = _MESSAGE.findall(text)
    words = found[-1].replace('\\"', '"') if found else text
    return " ".join(words.split())[-_LAST_WORDS:]
