"""Where a start gets its VM: a warm guest, a VMM that waits, or a new one from a template, made if need be."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import msgspec
import structlog

from midge import binaries
from midge.drivers import disks, rehearsal
from midge.drivers.base import Trace
from midge.drivers.qemu import accel, boot
from midge.drivers.qemu.command import Acceleration, Hardware
from midge.drivers.qemu.gate import RestoreGate
from midge.drivers.qemu.kernels import Kernels
from midge.drivers.qemu.launch import Files
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.template import Recipe
from midge.drivers.qemu.vm import NICE_WHILE_WARMING, Vm, VmMaker
from midge.drivers.templates import Template, TemplateStore
from midge.drivers.warm import KEYS_MAX, WarmPool
from midge.errors import NotSupported
from midge.guest import messages as m
from midge.kernel.store import Kernel, KernelStore
from midge.machine.spec import MIB, MachineSpec, Shape
from midge.net.pool import NetPool
from midge.sys.memory import available_ratio

WARM_TIMEOUT_S = 30.0  # from restore to a paused guest, on a loaded host under emulation
SLOT_EXTRA_MB = 16  # private memory of a waiting QEMU and its shim beside the guest's

# The program outside the image is the init itself, which waits for its input to end. The address is link-local and
# leads nowhere: the slot's namespace routes no address yet. What of the image is run: `midge.drivers.rehearsal`.
WARM = m.Warm(
    argv=("/init", "--wait"),
    read=("/bin/sh", "/bin/busybox"),
    net=m.Net(mac="02:4d:00:00:00:01", addresses=("169.254.1.1/32",), gateway="169.254.0.1"),
    keep=True,
)

_K = TypeVar("_K")
_V = TypeVar("_V")

_log = structlog.get_logger("midge.qemu")


@dataclass(frozen=True, slots=True)
class SlotKey:
    """What a waiting VM is good for: `template` and the image's digest.

    The image's disk is read-only and shared, so a slot has it in place from the beginning, mounted once already; the
    writable disk is the slot's own. Nothing has to be exchanged at the start, and no cache of one image can show up in
    another.

    `kind`: ``guest`` is restored, warmed and paused; ``vmm`` is only a VMM with its files, which has nothing to do but
    restore. It takes a tenth of the work to make, so it is there when starts come quicker than guests are warmed.
    """

    template: str
    image: str
    kind: Literal["guest", "vmm"] = "guest"

    def as_vmm(self) -> SlotKey:
        return SlotKey(self.template, self.image, "vmm")


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
        self.pool: WarmPool[SlotKey, Vm] = WarmPool(
            settings.pool,
            make=self._make_slot,
            end=vms.end,
            cost_mb=self._slot_cost_mb,
            available_ratio=available_ratio,
        )
        self.gate = RestoreGate()
        self._recipes: dict[str, Recipe] = {}
        self._programs: OrderedDict[str, tuple[m.Program, ...]] = OrderedDict()  # by image
        self._costs_mb: OrderedDict[SlotKey, int] = OrderedDict()
        self.kernels = Kernels(KernelStore(settings.kernels), settings.kernel_flavour)
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
        await self.kernels.open(binaries.find("midge-init"))
        kernel = self.kernels.current
        self.acceleration, why = await accel.choose(settings.acceleration, kernel.id, self._probe_kvm)
        _log.info("qemu", acceleration=self.acceleration, why=why, kernel=kernel.version)

    async def watch_kernels(self) -> None:
        """A keeper's task: see `midge.drivers.qemu.kernels`."""
        await self.kernels.watch(self._change_kernel)

    async def _change_kernel(self, kernel: Kernel) -> None:
        """Templates of the new kernel for all that was wanted lately; then its slots instead of the old one's."""
        wanted = self.pool.wanted()
        changed = {key.template: replace(self._recipes[key.template], kernel=kernel) for key in wanted}
        for recipe in changed.values():
            await self.templates.ensure(recipe)
            self._recipes[recipe.key] = recipe
        for key in wanted:
            self.pool.forget(key)
            self.pool.want(replace(key, template=changed[key.template].key))

    async def take(self, spec: MachineSpec, trace: Trace, turn: contextlib.AsyncExitStack) -> Vm:
        """A VM for this machine whose guest runs or is about to; marks the way it came by: ``slot`` or ``restore``.

        ``spawn`` before the latter: no VMM was waiting either. `turn` gets the place at the gate, for those that need
        one; the caller gives it back once the guest does what it is for.
        """
        recipe = self.recipe(spec.shape)
        key = self._key(recipe, spec)
        try:
            return await self._waiting_or_new(recipe, key, Path(spec.log_path), trace, turn)
        finally:
            self._want(key)

    async def _waiting_or_new(
        self, recipe: Recipe, key: SlotKey, log: Path, trace: Trace, turn: contextlib.AsyncExitStack
    ) -> Vm:
        """A VM whose guest runs or is about to, by the shortest way there is."""
        vm = self.pool.take(key)
        if vm is not None:
            vm.vmm.qmp.post("cont")
            vm.channel.set_log(log)
            trace.mark("slot")
            return vm
        await turn.enter_async_context(self.gate.turn(trace))
        vm = self.pool.take(key.as_vmm())
        if vm is None:
            vm = await self._spawn(recipe, key.image, log)
            trace.mark("spawn")
        else:
            vm.channel.set_log(log)
        self._vms.begin_restore(vm)
        trace.mark("restore")
        return vm

    def _want(self, key: SlotKey) -> None:
        """A waiting VMM first: it is quickly made."""
        self.pool.want(key)
        self.pool.want(key.as_vmm())

    def recipe(self, shape: Shape, acceleration: Acceleration | None = None) -> Recipe:
        chosen = acceleration or self.acceleration
        return Recipe(
            hardware=Hardware(shape=shape, acceleration=chosen, cpu_model=accel.CPU_MODELS[chosen]),
            kernel=self.kernels.current,
            qemu_version=self._qemu_version,
            upper_mb=self._settings.rootfs_mb,
        )

    def recipe_of(self, shape: Shape, template: str) -> Recipe:
        """That of a snapshot, whichever of our kernels it has in its memory; else the current one."""
        current = self.recipe(shape)
        mine = (replace(current, kernel=kernel) for kernel in (current.kernel, *self.kernels.others))
        return next((recipe for recipe in mine if recipe.key == template), current)

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
        _remember(self._programs, spec.image.digest, rehearsal.programs(spec.image))
        return SlotKey(recipe.key, spec.image.digest)

    def _slot_cost_mb(self, key: SlotKey) -> int:
        """As measured at the last slot of the key; before there was one, what it begins with."""
        return self._costs_mb.get(key) or self.templates.resident_mb(key.template) + SLOT_EXTRA_MB

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
            warm = msgspec.structs.replace(WARM, rehearse=self._programs.get(key.image, ()))
            await vm.channel.warm(warm, timeout_s=WARM_TIMEOUT_S)
            await vm.channel.quiesce(timeout_s=WARM_TIMEOUT_S)
            await vm.vmm.qmp.execute("stop")
            vm.nice(0)
            resident_bytes = self._vms.memory(vm.name).stat().st_blocks * 512
            _remember(self._costs_mb, key, resident_bytes // MIB + SLOT_EXTRA_MB)
        except BaseException:
            await self._vms.end(vm)
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


def _remember(known: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    """Keeps as many as the pool keeps keys."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > KEYS_MAX:
        known.popitem(last=False)
