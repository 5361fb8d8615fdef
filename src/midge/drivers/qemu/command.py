"""QEMU's command line. Pure: the same settings give the same words, and what shapes the guest is hashed.

The board is `microvm`: virtio over MMIO, no PCI, no firmware to speak of. Everything QEMU opens is handed to it as an
open descriptor, so that it can run as its own user, without rights to the directories they lie in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from midge.machine.spec import Shape

Acceleration = Literal["kvm", "tcg"]

# Raise it when devices, their order or their settings change: templates of another layout are not restored.
LAYOUT = 2
CONTROL_PORT = "midge.control"
CONSOLE_RING_BYTES = 65_536  # what the guest's kernel said last, for a report; a ring cannot fill the disk
DISKS = ("lower", "upper")
# Everything a VMM has no business doing. Source: QEMU's -sandbox.
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the guest sees: the same for a template and for all that start from it."""

    shape: Shape
    acceleration: Acceleration
    cpu_model: str

    @property
    def machine(self) -> str:
        # The legacy timer and interrupt controllers only cost probes; the RTC gives the kernel its first idea of time.
        return "microvm,acpi=on,pit=off,pic=off,rtc=on,pcie=off,usb=off"

    def identity(self) -> str:
        """Everything that must agree between the QEMU that saved and the one that restores."""
        shape = self.shape
        return f"{LAYOUT} {self.machine} {self.cpu_model} {self.acceleration} {shape.cpus} {shape.memory_mb}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """Numbers of the open files the QEMU inherits.

    channel: the shim's socket; qmp: a listening socket; memory, lower, upper: files; tap: a tap device, or None.
    """

    channel: int
    qmp: int
    memory: int
    lower: int
    upper: int
    tap: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What a cold boot needs besides; a restore has it in its memory."""

    kernel: int
    initramfs: int
    cmdline: str


def command(
    binary: str,
    hardware: Hardware,
    fds: Descriptors,
    *,
    boot: Boot | None,
    mac: str,
    sandbox: bool = True,
) -> tuple[str, ...]:
    """The words to execute. Without `boot` the QEMU waits for a state to restore (`migrate-incoming`)."""
    shape = hardware.shape
    accel = "tcg,thread=multi" if hardware.acceleration == "tcg" and shape.cpus > 1 else hardware.acceleration
    words = [
        binary,
        *("-M", hardware.machine + ",memory-backend=ram"),
        *("-accel", accel),
        *("-cpu", hardware.cpu_model),
        *("-smp", str(shape.cpus)),
        *("-m", f"{shape.memory_mb}M"),
        *(
            "-object",
            f"memory-backend-file,id=ram,size={shape.memory_mb}M,mem-path={_path(fds.memory)},share=on",
        ),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        *("-display", "none"),
        *("-chardev", f"socket,id=qmp,fd={fds.qmp},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"ringbuf,id=console,size={CONSOLE_RING_BYTES}"),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-device,id=serial,max_ports=2"),
        *("-chardev", f"socket,id=control,fd={fds.channel}"),
        *("-device", f"virtserialport,bus=serial.0,nr=1,chardev=control,name={CONTROL_PORT}"),
    ]
    for name, fd, read_only in (("lower", fds.lower, True), ("upper", fds.upper, False)):
        words += _disk(name, fd, read_only=read_only)
    words += _network(fds.tap, mac)
    if sandbox:
        words += ["-sandbox", SANDBOX]
    if boot is None:
        words += ["-incoming", "defer"]
    else:
        words += ["-kernel", _path(boot.kernel), "-initrd", _path(boot.initramfs), "-append", boot.cmdline]
    return tuple(words)


def _disk(name: str, fd: int, *, read_only: bool) -> list[str]:
    ro = "on" if read_only else "off"
    # A blank layer is made anew at each start, so the guest's flushes need not reach the disk.
    cache = "" if read_only else ",cache.no-flush=on"
    return [
        "-blockdev",
        f"driver=file,node-name={name}-file,filename={_path(fd)},read-only={ro},locking=off,discard=unmap{cache}",
        "-blockdev",
        f"driver=raw,node-name={name},file={name}-file,read-only={ro},discard=unmap{cache}",
        "-device",
        # What goes wrong is the guest's to hear. By default QEMU stops a guest for good where its host's disk is full.
        f"virtio-blk-device,drive={name},id=disk-{name},werror=report,rerror=report",
    ]


def _network(tap: int | None, mac: str) -> list[str]:
    if tap is None:
        return []
    return [
        "-netdev",
        f"tap,id=net,fd={tap},vhost=off",
        "-device",
        # No announcement after a restore: the host routes by interface, and the guest's part in it is 2000 blocks of
        # code to translate.
        f"virtio-net-device,netdev=net,mac={mac},guest_announce=off",
    ]


def _path(fd: int) -> str:
    """Opens the inherited file once more: needs rights to the file, not to the directories above it."""
    return f"/proc/self/fd/{fd}"
