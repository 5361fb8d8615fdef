"""Where a start gets its VM: a warm guest, a VMM that waits, or a new one from a template, made if need be."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from midge import binaries
from midge.drivers import disks
from midge.drivers.qemu import accel, boot
from midge.drivers.qemu.command import Acceleration, Hardware
from midge.drivers.qemu.launch import Files
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.template import Recipe
from midge.drivers.qemu.vm import NICE_WHILE_WARMING, Vm, VmMaker
from midge.drivers.qemu.warm import SlotKey, WarmPool
from midge.drivers.templates import Template, TemplateStore
from midge.errors import NotSupported
from midge.guest import messages as m
from midge.kernel.store import Kernel, KernelStore
from midge.machine.spec import MachineSpec, Shape
from midge.net.pool import NetPool

WARM_TIMEOUT_S = 30.0  # from restore to a paused guest, on a loaded host under emulation
SLOT_EXTRA_MB = 16  # private memory of a waiting QEMU and its shim beside the guest's

# Outside the image, so that none of its programs runs unasked: the init itself, which says its version and ends. The
# address is link-local and leads nowhere: the slot's namespace routes no address yet.
WARM = m.Warm(
    argv=("/init", "--version"),
    read=("/bin/sh", "/bin/busybox"),
    net=m.Net(mac="02:4d:00:00:00:01", addresses=("169.254.1.1/32",), gateway="169.254.0.1"),
    keep=True,
)

_log = structlog.get_logger("midge.qemu")


class DiskSource(Protocol):
    """The driver's view of the image store."""

    async def erofs(self, digest: str) -> Path: ...


class Supply:
    """Kernel, templates and the pool of one host. `pool.run` is somebody else's task."""

    def __init__(self, settings: QemuSettings, *, images: DiskSource, net: NetPool, vms: VmMaker) -> None:
        self._settings = settings
        self._images = images
        self._net = net
        self._vms = vms
        self.templates: TemplateStore[Recipe] = TemplateStore(
            settings.templates, self._build_template, key_file=settings.seal_key
        )
        self.pool = WarmPool(
            settings.pool,
            make=self._make_slot,
            remove=vms.remove,
            cost_mb=self._slot_cost_mb,
            available_ratio=available_ratio,
        )
        self._recipes: dict[str, Recipe] = {}
        self._kernel: Kernel | None = None
        self._qemu_version = ""
        self.acceleration: Acceleration = "tcg"

    async def open(self) -> None:
        """Finds QEMU, has a kernel ready, and decides on the acceleration.

        Raises:
            NotSupported: QEMU is not installed.
        """
        settings = self._settings
        if shutil.which(settings.binary) is None:
            raise NotSupported(
                f"{settings.binary} is not installed", hint="apt-get install qemu-system-x86 (Debian, Ubuntu)"
            )
        for folder in settings.folders():
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._qemu_version = await boot.qemu_version(settings.binary)
        init = binaries.find("midge-init")
        self._kernel = await KernelStore(settings.kernels).ensure(settings.kernel_flavour, init_binary=init)
        self.acceleration, why = await accel.choose(settings.acceleration, self._kernel.id, self._probe_kvm)
        _log.info("qemu", acceleration=self.acceleration, why=why, kernel=self._kernel.version)

    async def take(self, spec: MachineSpec) -> tuple[Vm, str]:
        """A VM for this machine whose guest runs or is about to, and the way it came by: ``slot`` or ``restore``."""
        recipe = self.recipe(spec.shape)
        key = self._key(recipe, spec)
        try:
            return await self._waiting_or_new(recipe, key, Path(spec.log_path))
        finally:
            self._want(key)

    async def _waiting_or_new(self, recipe: Recipe, key: SlotKey, log: Path) -> tuple[Vm, str]:
        """A VM whose guest runs or is about to, by the shortest way there is, and the way's name."""
        vm = self.pool.take(key)
        if vm is not None:
            vm.vmm.qmp.post("cont")
            vm.channel.set_log(log)
            return vm, "slot"
        vm = self.pool.take(key.as_vmm())
        if vm is None:
            vm = await self._spawn(recipe, key.image, log)
        else:
            vm.channel.set_log(log)
        self._vms.begin_restore(vm)
        return vm, "restore"

    def _want(self, key: SlotKey) -> None:
        """A waiting VMM first: it is quickly made."""
        self.pool.want(key)
        self.pool.want(key.as_vmm())

    def recipe(self, shape: Shape, acceleration: Acceleration | None = None) -> Recipe:
        assert self._kernel is not None, "open() first"
        chosen = acceleration or self.acceleration
        return Recipe(
            hardware=Hardware(shape=shape, acceleration=chosen, cpu_model=accel.CPU_MODELS[chosen]),
            kernel=self._kernel,
            qemu_version=self._qemu_version,
            upper_mb=self._settings.rootfs_mb,
        )

    async def _build_template(self, recipe: Recipe, folder: Path) -> None:
        await boot.build(self._settings, self._net, recipe, folder / "memory", folder / "state")

    async def _probe_kvm(self) -> None:
        async with asyncio.timeout(accel.PROBE_TIMEOUT_S):
            await boot.probe(self._settings, self._net, self.recipe(Shape(), "kvm"))

    async def prepare(self, spec: MachineSpec) -> None:
        await self._images.erofs(spec.image.digest)
        await disks.blank_layer(self._settings.blanks, self._settings.rootfs_mb)
        recipe = self.recipe(spec.shape)
        await self.templates.ensure(recipe)
        self._want(self._key(recipe, spec))

    def _key(self, recipe: Recipe, spec: MachineSpec) -> SlotKey:
        self._recipes[recipe.key] = recipe
        return SlotKey(recipe.key, spec.image.digest)

    def _slot_cost_mb(self, key: SlotKey) -> int:
        return self.templates.resident_mb(key.template) + SLOT_EXTRA_MB

    async def _make_slot(self, key: SlotKey) -> Vm:
        """A guest that has walked the path of a start once, with the image in place, and stands still."""
        recipe = self._recipes[key.template]
        vm = await self._spawn(recipe, key.image)
        if key.kind == "vmm":
            return vm
        self._vms.begin_restore(vm)
        try:
            vm.nice(NICE_WHILE_WARMING)
            await vm.channel.hello(timeout_s=WARM_TIMEOUT_S)
            await vm.channel.warm(WARM, timeout_s=WARM_TIMEOUT_S)
            await vm.channel.quiesce(timeout_s=WARM_TIMEOUT_S)
            await vm.vmm.qmp.execute("stop")
            vm.nice(0)
        except BaseException:
            await vm.channel.aclose()
            vm.vmm.process.kill()
            await self._vms.remove(vm.name)
            vm.vmm.process.release()
            raise
        return vm

    async def _spawn(self, recipe: Recipe, digest: str, log: Path | None = None) -> Vm:
        lower = await self._images.erofs(digest)
        blank = await disks.blank_layer(self._settings.blanks, self._settings.rootfs_mb)
        template = await self.templates.ensure(recipe)
        return await self._vms.spawn(recipe.hardware, partial(self._open_fresh, template, lower, blank), log)

    def _open_fresh(
        self, template: Template, lower: Path, blank: Path, stack: contextlib.ExitStack, name: str, uid: int
    ) -> Files:
        """Its own memory and writable disk, copied from template and blank layer."""
        memory = disks.opened(stack, disks.create(self._vms.memory(name), uid))
        disks.copy_sparse(disks.opened(stack, disks.read_only(template.memory)), memory)
        upper = disks.opened(stack, disks.create(self._vms.layer(name), uid))
        disks.copy_sparse(disks.opened(stack, disks.read_only(blank)), upper)
        return Files(
            memory=memory,
            upper=upper,
            lower=disks.opened(stack, disks.read_only(lower)),
            state=disks.opened(stack, disks.read_only(template.state)),
        )


def available_ratio() -> float:
    """How much of the host's memory is available, 0 to 1."""
    figures = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            figures[name] = int(rest.split()[0])
    return figures["MemAvailable"] / figures["MemTotal"]
