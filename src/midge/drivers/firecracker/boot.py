"""The slow way: booting a kernel, to make a template. That it works is also the only proof that KVM does."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from pathlib import Path

from midge.drivers import shim
from midge.drivers.firecracker import bodies as b
from midge.drivers.firecracker.jail import TEMPLATE_UID, VSOCK_SOCKET, Jail
from midge.drivers.firecracker.launch import (
    GUEST_CID,
    Place,
    connect,
    end,
    file_bytes_max,
    last_words,
    launch,
)
from midge.drivers.firecracker.recipe import Recipe
from midge.drivers.firecracker.settings import FirecrackerSettings
from midge.drivers.firecracker.version import Programs
from midge.errors import DeadlineExceeded, DriverError
from midge.guest.errors import ChannelLost
from midge.images.limits import EROFS_DEVICE_SIZE_BYTES
from midge.kernel.cmdline import build as build_cmdline
from midge.machine.spec import MIB
from midge.net.pool import NetPool

BOOT_TIMEOUT_S = 15.0  # a working KVM takes a fraction of a second; one that does not work takes for ever
NETWORK_ID = "eth0"
LOWER, UPPER = "lower", "upper"
ZERO_BLOCK_BYTES = 65_536  # stretches of zeros this long become holes


def boot_id() -> str:
    """A name for the jail of a guest that boots for a template; it says whose, for `is_ours`."""
    return f"t{os.getpid()}-{secrets.token_hex(3)}"


def is_ours(id: str) -> bool:
    """Whether this process made the name."""
    return id.startswith(f"t{os.getpid()}-")


def boot_args(recipe: Recipe) -> str:
    """The guest's kernel command line. Firecracker adds the devices, for kernels that do not find them by ACPI."""
    extra = [*recipe.kernel.cmdline.split(), "midge.channel=vsock"]
    return build_cmdline("kvm", acpi=True, console=True, extra=extra)


def configure(recipe: Recipe, tap: str) -> list[b.Body]:
    """The requests that describe a guest to a fresh Firecracker, in order.

    Network interfaces have no address here: init sets the machine's own.
    """
    shape = recipe.shape
    return [
        b.BootSource(kernel_image_path="/kernel", initrd_path="/initramfs", boot_args=boot_args(recipe)),
        b.MachineConfiguration(
            vcpu_count=shape.cpus,
            mem_size_mib=shape.memory_mb,
            track_dirty_pages=recipe.track_dirty_pages,
        ),
        # Init knows the disks by their order: /dev/vda and /dev/vdb.
        b.Drive(drive_id=LOWER, path_on_host=f"/{LOWER}", is_root_device=False, is_read_only=True),
        b.Drive(drive_id=UPPER, path_on_host=f"/{UPPER}", is_root_device=False, is_read_only=False),
        b.NetworkInterface(iface_id=NETWORK_ID, host_dev_name=tap),
        b.Vsock(guest_cid=GUEST_CID, uds_path=f"/run/{VSOCK_SOCKET}"),
        b.EntropyDevice(),
    ]


async def build(
    settings: FirecrackerSettings, programs: Programs, net: NetPool, recipe: Recipe, folder: Path
) -> None:
    """Boots a guest, waits for its init, and saves it to `memory` and `state` in `folder`.

    Raises:
        DriverError: it did not come up, or could not be saved.
    """
    jail = Jail(settings.jails, programs.firecracker.name, boot_id(), TEMPLATE_UID)
    rundir = settings.rundir / jail.id
    rundir.mkdir(parents=True, mode=0o700)
    # A real tap, so that the guest's driver settles on the features that machines get.
    slot = await net.take("tap", settings.boot_address, None)
    try:
        await asyncio.to_thread(_furnish, jail, recipe)
        place = Place(rundir=rundir, log=rundir / "output.log", jail=jail, slot=slot, cgroup=None)
        process = await launch(programs, place, file_bytes_max=file_bytes_max(recipe.shape, recipe.upper_mb))
        try:
            await _boot_and_save(process, place, recipe)
        finally:
            await end(process)
        await asyncio.to_thread(_take, jail, folder)
    finally:
        await net.give_back(slot)
        await asyncio.to_thread(jail.remove)
        await asyncio.to_thread(shutil.rmtree, rundir, ignore_errors=True)


async def _boot_and_save(process: shim.ShimProcess, place: Place, recipe: Recipe) -> None:
    async with await connect(place.jail) as api, await process.attach() as channel:
        for body in configure(recipe, place.slot.guest_ifname):
            await api.send(body)
        await api.send(b.InstanceActionInfo(action_type="InstanceStart"))
        try:
            await channel.hello(timeout_s=BOOT_TIMEOUT_S)
        except (ChannelLost, DeadlineExceeded) as error:
            raise DriverError(
                f"guest kernel {recipe.kernel.version} did not come up: {last_words(place.rundir)}",
                hint="does this host have hardware virtualisation? midge doctor says what it offers",
            ) from error
        await channel.quiesce()
        await api.send(b.Vm(state="Paused"))
        full = b.SnapshotCreateParams(
            snapshot_type="Full", snapshot_path="/save/state", mem_file_path="/save/memory"
        )
        await api.create_snapshot(full, memory_mb=recipe.shape.memory_mb)


def _furnish(jail: Jail, recipe: Recipe) -> None:
    """Kernel, initramfs and disks without content: those of a machine take their place at its start."""
    jail.make()
    for name, source in (("kernel", recipe.kernel.image), ("initramfs", recipe.kernel.initramfs)):
        jail.add(source, name)
    for name, size in ((LOWER, EROFS_DEVICE_SIZE_BYTES), (UPPER, recipe.upper_mb * MIB)):
        fd = os.open(jail.root / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            os.fchown(fd, jail.uid, jail.uid)
        finally:
            os.close(fd)


def _take(jail: Jail, folder: Path) -> None:
    """Moves state and memory out; Firecracker writes each page, so zeros are made holes again."""
    jail.take("state", folder / "state")
    dense = folder / "memory.dense"
    jail.take("memory", dense)
    copy_without_zeros(dense, folder / "memory")
    dense.unlink()


def copy_without_zeros(source: Path, target: Path) -> None:
    """A copy in which long stretches of zeros are holes; with the source's mode."""
    zeros = bytes(ZERO_BLOCK_BYTES)
    with source.open("rb", buffering=0) as read, target.open("xb", buffering=0) as write:
        size = os.fstat(read.fileno()).st_size
        os.ftruncate(write.fileno(), size)
        for position in range(0, size, ZERO_BLOCK_BYTES):
            block = os.pread(read.fileno(), ZERO_BLOCK_BYTES, position)
            if block != zeros[: len(block)]:
                os.pwrite(write.fileno(), block, position)
        os.fchmod(write.fileno(), os.fstat(read.fileno()).st_mode & 0o777)
