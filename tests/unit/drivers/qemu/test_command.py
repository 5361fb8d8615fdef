"""QEMU's command line, word by word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from midge.drivers.qemu.command import Acceleration, Boot, Descriptors, Hardware, command
from midge.machine.spec import Shape

HARDWARE = Hardware(shape=Shape(cpus=1, memory_mb=256), acceleration="kvm", cpu_model="host")
FDS = Descriptors(channel=3, qmp=4, memory=5, lower=6, upper=7, tap=8)
GOLDEN = """
qemu -M microvm,acpi=on,pit=off,pic=off,rtc=on,pcie=off,usb=off,memory-backend=ram -accel kvm -cpu host -smp 1 -m 256M
-object memory-backend-file,id=ram,size=256M,mem-path=/proc/self/fd/5,share=on
-nodefaults -no-user-config -no-reboot -display none
-chardev socket,id=qmp,fd=4,server=on,wait=off -mon chardev=qmp,mode=control
-chardev ringbuf,id=console,size=65536 -serial chardev:console
-device virtio-serial-device,id=serial,max_ports=2 -chardev socket,id=control,fd=3
-device virtserialport,bus=serial.0,nr=1,chardev=control,name=midge.control
-blockdev driver=file,node-name=lower-file,filename=/proc/self/fd/6,read-only=on,locking=off,discard=unmap
-blockdev driver=raw,node-name=lower,file=lower-file,read-only=on,discard=unmap
-device virtio-blk-device,drive=lower,id=disk-lower,werror=report,rerror=report
-blockdev driver=file,node-name=upper-file,filename=/proc/self/fd/7,read-only=off,locking=off,discard=unmap,cache.no-flush=on
-blockdev driver=raw,node-name=upper,file=upper-file,read-only=off,discard=unmap,cache.no-flush=on
-device virtio-blk-device,drive=upper,id=disk-upper,werror=report,rerror=report
-netdev tap,id=net,fd=8,vhost=off -device virtio-net-device,netdev=net,mac=02:00:00:00:00:01,guest_announce=off
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-incoming defer
""".split()  # noqa: E501 (one word cannot be broken)


def words(hardware: Hardware = HARDWARE, fds: Descriptors = FDS, boot: Boot | None = None) -> list[str]:
    return list(command("qemu", hardware, fds, boot=boot, mac="02:00:00:00:00:01"))


def test_a_restore_waits_for_its_state() -> None:
    assert words() == GOLDEN


def test_a_boot_differs_in_its_end_alone() -> None:
    booted = words(boot=Boot(kernel=9, initramfs=10, cmdline="quiet panic=-1"))
    assert booted[: len(GOLDEN) - 2] == GOLDEN[:-2]
    assert booted[len(GOLDEN) - 2 :] == [
        *("-kernel", "/proc/self/fd/9"),
        *("-initrd", "/proc/self/fd/10"),
        *("-append", "quiet panic=-1"),
    ]


def test_without_a_tap_there_is_no_network() -> None:
    assert not any("net" in word for word in words(fds=replace(FDS, tap=None)) if "/" not in word)


@pytest.mark.parametrize(
    ("acceleration", "cpus", "accel"), [("tcg", 1, "tcg"), ("tcg", 2, "tcg,thread=multi"), ("kvm", 2, "kvm")]
)
def test_emulation_uses_a_thread_for_each_cpu(acceleration: Acceleration, cpus: int, accel: str) -> None:
    found = words(replace(HARDWARE, acceleration=acceleration, shape=Shape(cpus=cpus)))
    assert found[found.index("-accel") + 1] == accel
    assert found[found.index("-smp") + 1] == str(cpus)


def test_what_shapes_the_guest_is_its_identity() -> None:
    others = [
        replace(HARDWARE, shape=Shape(cpus=2)),
        replace(HARDWARE, shape=Shape(memory_mb=512)),
        replace(HARDWARE, acceleration="tcg"),
        replace(HARDWARE, cpu_model="max"),
    ]
    assert len({hardware.identity() for hardware in [HARDWARE, *others]}) == 5
    assert replace(HARDWARE, shape=Shape(cpu_kind="performance")).identity() == HARDWARE.identity()
