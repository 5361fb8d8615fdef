"""Running one QEMU behind a shim, cold or from a template. What is opened here is closed here."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from midge.cgroup import Cgroup
from midge.drivers import shim
from midge.drivers.qemu.accel import KVM_DEVICE
from midge.drivers.qemu.command import Boot, Descriptors, Hardware, command
from midge.drivers.qemu.qmp import Qmp
from midge.errors import DriverError
from midge.net.slot import NetSlot

QMP_SOCKET = "qmp.sock"
NOFILE = 4096
OPEN_TO_ALL = 0o006  # mode bits with which any user may read and write
OOM_SCORE = 500  # the guest goes before the services of the host do
TEMPLATE_MAC = "02:4d:00:00:00:01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one VMM runs and as whom."""

    rundir: Path
    log: Path
    uid: int
    slot: NetSlot | None
    cgroup: Cgroup | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Open files of one VMM, closed by whoever opened them. `state` is read by a restore, written by a save."""

    memory: int
    lower: int
    upper: int
    state: int


@dataclass(slots=True)
class Vmm:
    """A running QEMU: its shim and its monitor."""

    process: shim.ShimProcess
    qmp: Qmp


async def launch(
    binary: str, hardware: Hardware, place: Place, files: Files, *, kernel: tuple[int, int, str] | None
) -> Vmm:
    """Starts shim and QEMU; returns as soon as QEMU executes, before it has done anything.

    Args:
        kernel: descriptors of kernel and initramfs, and the command line; None to wait for a restore.

    Raises:
        DeviceRefused: it cannot have the device that its acceleration needs.
        DriverError: it could not be started.
    """
    listener = _listen(place.rundir / QMP_SOCKET)
    with contextlib.closing(listener), _free_number() as channel:
        inherited = [listener.fileno(), files.memory, files.lower, files.upper]
        if kernel is not None:
            inherited += kernel[:2]
        tap_fd = os.dup(channel) if place.slot is not None else None
        try:
            words = command(
                binary,
                hardware,
                Descriptors(
                    channel=channel,
                    qmp=listener.fileno(),
                    memory=files.memory,
                    lower=files.lower,
                    upper=files.upper,
                    tap=tap_fd,
                ),
                boot=None
                if kernel is None
                else Boot(kernel=kernel[0], initramfs=kernel[1], cmdline=kernel[2]),
                mac=place.slot.mac or TEMPLATE_MAC if place.slot else TEMPLATE_MAC,
            )
            spec = shim.ShimSpec(
                rundir=place.rundir,
                program=words,
                log=place.log,
                channel=channel,
                netns=place.slot.netns_path if place.slot else None,
                tap=(place.slot.guest_ifname, tap_fd) if place.slot and tap_fd is not None else None,
                cgroups=tuple(place.cgroup.procs_files()) if place.cgroup else (),
                uid=place.uid,
                gid=place.uid,
                own_device=own_device(hardware),
                nofile=NOFILE,
                oom_score=OOM_SCORE,
                no_new_privs=True,
                pass_fds=tuple(inherited),
            )
            process = await shim.launch(spec)
        finally:
            if tap_fd is not None:
                os.close(tap_fd)
    try:
        return Vmm(process, await Qmp.connect(place.rundir / QMP_SOCKET, state_fd=files.state))
    except BaseException:
        process.kill()
        process.release()
        raise


def _listen(path: Path) -> socket.socket:
    """The monitor's socket, bound before QEMU exists, so that nobody has to wait for it to appear."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(2)
    except OSError as error:
        listener.close()
        raise DriverError(f"cannot listen at {path}: {error.strerror}") from error
    return listener


class _free_number:
    """Reserves a descriptor number that nothing else in this process has while the child is spawned."""

    def __enter__(self) -> int:
        self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def own_device(hardware: Hardware, device: Path = KVM_DEVICE) -> Path | None:
    """The device of which a VMM needs a node of its own; None where it needs none, or where everybody may open it.

    Never a group instead: the device's group may be root's, or own other things as well.
    """
    if hardware.acceleration != "kvm":
        return None
    try:
        mode = device.stat().st_mode
    except OSError:
        return device  # the shim says what is wrong with it
    return None if mode & OPEN_TO_ALL == OPEN_TO_ALL else device
