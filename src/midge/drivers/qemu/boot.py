"""The slow way: booting a kernel, to make a template or to see whether KVM works."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from midge.drivers.disks import create
from midge.drivers.qemu import rings
from midge.drivers.qemu.launch import Files, Place, Vmm, launch
from midge.drivers.qemu.qmp import STATE, Qmp, migration_is
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.template import Recipe, save_memory
from midge.errors import DriverError
from midge.guest.channel import GuestChannel
from midge.images.limits import EROFS_DEVICE_SIZE_BYTES
from midge.kernel import tsc
from midge.kernel.cmdline import build as build_cmdline
from midge.machine.spec import MIB
from midge.net.pool import NetPool

BOOT_TIMEOUT_S = 90.0  # Debian's kernel under emulation on a busy host; usually three seconds
SAVE_TIMEOUT_S = 60.0
TEMPLATE_UID = 0x5FFFFFFF
LAST_WORDS_BYTES = 600
SCRATCH_PREFIXES = ("template-", "probe-")  # of memory files while a guest boots
CAPABILITIES = [{"capability": "x-ignore-shared", "state": True}, {"capability": "events", "state": True}]


async def qemu_version(binary: str) -> str:
    """For example ``7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)``: templates belong to exactly one build."""
    process = await asyncio.create_subprocess_exec(
        binary, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    match = re.search(r"version (.+)", output.decode(errors="replace"))
    if process.returncode != 0 or match is None:
        raise DriverError(f"{binary} --version does not answer", hint="is it a QEMU?")
    return match[1].strip()


def last_words(rundir: Path) -> str:
    """The end of what the VMM itself has written, for an error message."""
    with contextlib.suppress(OSError):
        text = (rundir / "vmm.log").read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace").strip()
        if text:
            return " ".join(text.split())
    return "the VMM said nothing"


@contextlib.asynccontextmanager
async def _booted(
    settings: QemuSettings, net: NetPool, recipe: Recipe, memory: Path, state: Path
) -> AsyncIterator[tuple[Vmm, GuestChannel]]:
    """A guest booted by the recipe, its init waiting; gone afterwards."""
    rundir = settings.rundir / f".boot-{secrets.token_hex(4)}"
    rundir.mkdir(parents=True, mode=0o700)
    process = None
    # A real tap, so that the guest's driver settles on the features that machines get.
    slot = await net.reserve()
    try:
        with contextlib.ExitStack() as stack:
            files, kernel = _open(stack, settings, recipe, rundir, memory, state)
            place = Place(rundir=rundir, log=rundir / "output.log", uid=TEMPLATE_UID, slot=slot, cgroup=None)
            vmm = await launch(settings.binary, recipe.hardware, place, files, kernel=kernel)
            process = vmm.process
            async with await process.attach() as channel:
                try:
                    await channel.hello(timeout_s=BOOT_TIMEOUT_S)
                except Exception as error:
                    raise DriverError(
                        f"guest kernel {recipe.kernel.version} did not come up: {last_words(rundir)}",
                        hint="midge doctor says what the host offers",
                    ) from error
                yield vmm, channel
                vmm.qmp.close()
    finally:
        if process is not None:
            with contextlib.suppress(Exception):
                async with await process.attach() as channel:
                    await channel.kill()
                    await channel.wait_ended()
            process.kill()
            await process.wait()
        await net.give_back(slot)
        await asyncio.to_thread(shutil.rmtree, rundir, ignore_errors=True)


def _open(
    stack: contextlib.ExitStack,
    settings: QemuSettings,
    recipe: Recipe,
    rundir: Path,
    memory: Path,
    state: Path,
) -> tuple[Files, tuple[int, int, str]]:
    def opened(fd: int) -> int:
        stack.callback(os.close, fd)
        return fd

    def placeholder(name: str, size: int) -> int:
        fd = opened(create(rundir / name, TEMPLATE_UID))
        os.ftruncate(fd, size)
        return fd

    memory_fd = opened(create(memory, TEMPLATE_UID))
    os.ftruncate(memory_fd, recipe.hardware.shape.memory_mb * MIB)
    files = Files(
        memory=memory_fd,
        lower=placeholder("lower", EROFS_DEVICE_SIZE_BYTES),
        upper=placeholder("upper", recipe.upper_mb * MIB),
        state=opened(create(state, TEMPLATE_UID)),
    )
    acceleration = recipe.hardware.acceleration
    cmdline = build_cmdline(
        acceleration,
        console=True,
        tsc_khz=tsc.measure_khz() if acceleration == "tcg" else None,
        extra=recipe.kernel.cmdline.split(),
    )
    kernel = (
        opened(os.open(recipe.kernel.image, os.O_RDONLY | os.O_CLOEXEC)),
        opened(os.open(recipe.kernel.initramfs, os.O_RDONLY | os.O_CLOEXEC)),
        cmdline,
    )
    return files, kernel


async def build(settings: QemuSettings, net: NetPool, recipe: Recipe, memory: Path, state: Path) -> None:
    """Boots a guest and saves it: what a template is made from. The memory lies on tmpfs while the guest boots."""
    scratch = settings.memory_dir / f"{SCRATCH_PREFIXES[0]}{secrets.token_hex(4)}.mem"
    try:
        async with _booted(settings, net, recipe, scratch, state) as (vmm, channel):
            await channel.quiesce()
            await save_state(vmm.qmp)
            await asyncio.to_thread(rings.blank, scratch, await rings.queues(vmm.qmp))
            await asyncio.to_thread(save_memory, scratch, memory)
    finally:
        scratch.unlink(missing_ok=True)


async def save_state(qmp: Qmp) -> None:
    """Writes the device state to the file named STATE. Afterwards the guest is stopped and its memory file complete.

    The guest is not stopped before: what is saved while running runs again by itself once it is restored.

    Raises:
        DriverError: not saved. Whether the guest stands still by now is for the caller to settle.
    """
    await qmp.execute("migrate-set-capabilities", capabilities=CAPABILITIES)
    ended = qmp.event(migration_is("completed", "failed"))
    await qmp.execute("migrate", uri=f"fd:{STATE}")
    try:
        async with asyncio.timeout(SAVE_TIMEOUT_S):
            event = await ended
    except TimeoutError as error:
        raise DriverError(
            f"guest was not saved within {SAVE_TIMEOUT_S:g} s", hint="is the disk slow?"
        ) from error
    if event["data"]["status"] != "completed":
        info = await qmp.execute("query-migrate")
        raise DriverError(f"guest could not be saved: {info.get('error-desc', 'no reason given')}")


async def probe(settings: QemuSettings, net: NetPool, recipe: Recipe) -> None:
    """Boots and throws away; raises if the guest does not come up."""
    scratch = settings.memory_dir / f"{SCRATCH_PREFIXES[1]}{secrets.token_hex(4)}.mem"
    state = scratch.with_suffix(".state")
    try:
        async with _booted(settings, net, recipe, scratch, state):
            pass
    finally:
        scratch.unlink(missing_ok=True)
        state.unlink(missing_ok=True)
