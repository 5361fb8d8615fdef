"""A virtual machine in QEMU with software emulation, whose control port is a socket of the test's."""

from __future__ import annotations

import base64
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from midge.guest.protocol import FrameType
from midge.kernel import Kernel, build_cmdline, tsc
from tests.integration.init.guest import Guest

MEMORY_MB = 256
# Booting Debian's kernel takes some three seconds on a free processor.
BOOT_DEADLINE_S = 120.0
POWER_OFF_DEADLINE_S = 60.0
ROOT = {"lower": "/dev/vda", "upper": "/dev/vdb"}
_DISK_NAMES = ("vda", "vdb", "vdc")


def make_lower(tree: Path, image: Path) -> Path:
    """The read-only image of a directory."""
    subprocess.run(["mkfs.erofs", "--quiet", str(image), str(tree)], check=True)
    return image


def make_ext4(image: Path, size_mb: int) -> Path:
    """A blank file system."""
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", str(image)], check=True)
    return image


def is_clean(image: Path) -> bool:
    """Whether nothing is left in the journal and e2fsck has no complaint."""
    header = subprocess.run(["dumpe2fs", "-h", str(image)], check=True, capture_output=True, text=True).stdout
    checked = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, check=False)
    return "needs_recovery" not in header and checked.returncode == 0


def read_file(image: Path, path: str) -> bytes:
    """A file out of an ext4 image."""
    command = ["debugfs", "-R", f"cat {path}", str(image)]
    return subprocess.run(command, check=True, capture_output=True).stdout


class VmGuest(Guest):
    """The machine, with its disks in order: vda, vdb, …

    Attributes:
        console: file with what the kernel and the init print.
    """

    def __init__(self, kernel: Kernel, disks: list[Path], scratch: Path, extra: tuple[str, ...] = ()) -> None:
        host, machine = socket.socketpair()
        super().__init__(host)
        self.console = scratch / "console"
        with machine:
            self.process = subprocess.Popen(
                self._command(kernel, disks, machine.fileno(), extra),
                pass_fds=[machine.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def _command(self, kernel: Kernel, disks: list[Path], fd: int, extra: tuple[str, ...]) -> list[str]:
        acpi = kernel.needs_acpi
        words = (*kernel.cmdline.split(), *extra)
        cmdline = build_cmdline("tcg", acpi=acpi, console=True, tsc_khz=tsc.measure_khz(), extra=words)
        board = "pic=off,pit=off,rtc=on,acpi=on" if acpi else "pic=on,pit=on,rtc=on,acpi=off"
        argv = ["qemu-system-x86_64", "-M", f"microvm,{board}", "-accel", "tcg"]
        argv += ["-cpu", "max", "-m", str(MEMORY_MB), "-nodefaults", "-no-user-config", "-no-reboot"]
        argv += ["-display", "none", "-serial", f"file:{self.console}"]
        argv += ["-kernel", str(kernel.image), "-initrd", str(kernel.initramfs), "-append", cmdline]
        argv += ["-device", "virtio-serial-device", "-chardev", f"socket,id=control,fd={fd}"]
        argv += ["-device", "virtserialport,chardev=control,name=midge.control"]
        argv += ["-netdev", "user,id=net,restrict=on,net=10.0.2.0/24,ipv6-net=fd00::/64"]
        argv += ["-device", "virtio-net-device,netdev=net,mac=02:00:00:00:00:01"]
        for name, disk in zip(_DISK_NAMES, disks, strict=False):
            argv += ["-drive", f"if=none,id={name},file={disk},format=raw"]
            argv += ["-device", f"virtio-blk-device,drive={name}"]
        return argv

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        """The exit code of QEMU, once the guest has powered off."""
        return self.process.wait(POWER_OFF_DEADLINE_S)


def configure(machine: VmGuest, script: str, **members: Any) -> None:
    """Has a machine run a shell script."""
    message = {
        "mode": "vm",
        "root": ROOT,
        "wall_clock_ns": 2_000_000_000 * 10**9,
        "entropy": base64.b64encode(bytes(range(64))).decode(),
        "hostname": "m-1",
        **members,
    }
    machine.configure(["sh", "-c", script], **message)
    machine.send(FrameType.RUN)
