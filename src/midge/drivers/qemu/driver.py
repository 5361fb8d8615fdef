"""The driver's verbs on QEMU. See `midge.drivers.base.Driver`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from contextlib import AbstractAsyncContextManager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import structlog

from midge import binaries
from midge.cgroup import Cgroup, CgroupTree, Limits
from midge.drivers import shim, shim_files
from midge.drivers.base import (
    Capabilities,
    ExecRequest,
    ExecSession,
    Exited,
    Handle,
    Lost,
    Recovered,
    Running,
    Trace,
)
from midge.drivers.configure import ENTROPY_BYTES, configure, guest_files
from midge.drivers.instance import Instance, exit_status, kill_leftover
from midge.drivers.qemu import accel, boot, disks
from midge.drivers.qemu.command import Acceleration, Hardware
from midge.drivers.qemu.launch import Files, Place, Vmm, launch
from midge.drivers.qemu.qmp import STATE
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.qemu.template import Recipe, Template, TemplateStore
from midge.errors import DriverError, NotRunning, NotSupported, SnapshotUnusable
from midge.guest import messages as m
from midge.guest.errors import ChannelLost
from midge.kernel.store import Kernel, KernelStore
from midge.machine.spec import MIB, ExitStatus, MachineSpec, Shape
from midge.net.pool import NetPool
from midge.net.slot import NetSlot

UID_BASE = (
    0x60000000  # machine users: this plus the low 24 bits of the machine's address, so unique on a host
)
VMM_OVERHEAD_MB = 192  # QEMU's own memory: code, translation cache, device buffers
PIDS_MAX = 512
RESTORE_TIMEOUT_S = 30.0

_log = structlog.get_logger("midge.qemu")


class QemuDriver:
    """Machines on QEMU's `microvm` board, started from templates."""

    name = "qemu"

    def __init__(self, settings: QemuSettings, *, images: Any, net: NetPool, cgroups: CgroupTree) -> None:
        self._settings = settings
        self._images = images
        self._net = net
        self._cgroups = cgroups
        self._templates = TemplateStore(settings.templates, self._build_template)
        self._instances: dict[str, Instance] = {}
        self._kernel: Kernel | None = None
        self._qemu_version = ""
        self.acceleration: Acceleration = "tcg"
        self.acceleration_reason = ""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            isolation="vm", suspend="none", network="tap", templates=True, acceleration=self.acceleration
        )

    async def open(self) -> None:
        settings = self._settings
        if shutil.which(settings.binary) is None:
            raise NotSupported(
                f"{settings.binary} is not installed", hint="apt-get install qemu-system-x86 (Debian, Ubuntu)"
            )
        for folder in (settings.rundir, settings.memory_dir, settings.machines, settings.templates):
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._qemu_version = await boot.qemu_version(settings.binary)
        init = binaries.find("midge-init")
        self._kernel = await KernelStore(settings.kernels).ensure(settings.kernel_flavour, init_binary=init)
        wish = settings.acceleration
        self.acceleration, self.acceleration_reason = await accel.choose(
            wish, self._kernel.id, self._probe_kvm
        )
        _log.info(
            "qemu", acceleration=self.acceleration, why=self.acceleration_reason, kernel=self._kernel.version
        )

    async def aclose(self) -> None:
        for instance in self._instances.values():
            await instance.detach()
        self._instances.clear()
        self._templates.close()

    # ── templates ─────────────────────────────────────────────────────────────────────────────────────────────

    def hardware(self, shape: Shape, acceleration: Acceleration | None = None) -> Hardware:
        chosen = acceleration or self.acceleration
        return Hardware(shape=shape, acceleration=chosen, cpu_model=accel.CPU_MODELS[chosen])

    def recipe(self, shape: Shape, acceleration: Acceleration | None = None) -> Recipe:
        assert self._kernel is not None, "open() first"
        return Recipe(
            hardware=self.hardware(shape, acceleration),
            kernel=self._kernel,
            qemu_version=self._qemu_version,
            upper_mb=self._settings.rootfs_mb,
        )

    async def _build_template(self, recipe: Recipe, memory: Path, state: Path) -> None:
        await boot.build(self._settings, self._net, recipe, memory, state)

    async def _probe_kvm(self) -> None:
        async with asyncio.timeout(accel.PROBE_TIMEOUT_S):
            await boot.probe(self._settings, self._net, self.recipe(Shape(), "kvm"))

    async def prepare(self, spec: MachineSpec) -> None:
        await self._images.erofs(spec.image.digest)
        await disks.blank_layer(self._settings.blanks, self._settings.rootfs_mb)
        await self._templates.ensure(self.recipe(spec.shape))

    # ── start ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, spec: MachineSpec, trace: Trace) -> Handle:
        adopted = await self._adopt_same(spec)
        if adopted is not None:
            return adopted
        lower = await self._images.erofs(spec.image.digest)
        blank = await disks.blank_layer(self._settings.blanks, self._settings.rootfs_mb)
        template = await self._templates.ensure(self.recipe(spec.shape))
        rundir = self._rundir(spec.machine_id)
        await asyncio.to_thread(_fresh, rundir)
        address = _address(spec)
        slot = await self._net.take("tap", address, spec.network.mac if spec.network else None)
        place = Place(
            rundir=rundir,
            log=Path(spec.log_path),
            uid=UID_BASE + (int(address) & 0xFFFFFF),
            slot=slot,
            cgroup=self._cgroup(spec),
        )
        trace.mark("slot")
        handle = Handle(
            driver=self.name,
            machine_id=spec.machine_id,
            start_id=spec.start_id,
            data={"slot": slot.name, "uid": place.uid},
        )
        (rundir / "start_id").write_text(spec.start_id)
        (rundir / "slot").write_text(slot.name)
        vmm = await self._restore(spec, template, place, lower, blank, trace)
        instance = await self._run_guest(spec, vmm, place, slot, trace)
        self._instances[spec.machine_id] = instance
        return handle

    async def _restore(
        self, spec: MachineSpec, template: Template, place: Place, lower: Path, blank: Path, trace: Trace
    ) -> Vmm:
        with contextlib.ExitStack() as stack:
            files = await asyncio.to_thread(self._open_files, stack, spec, template, place.uid, lower, blank)
            trace.mark("files")
            vmm = await launch(self._settings.binary, self.hardware(spec.shape), place, files, kernel=None)
            trace.mark("launch")
            # In one go: QEMU takes them in order, and the machine runs by itself once the state is in.
            vmm.qmp.post("migrate-set-capabilities", capabilities=boot.CAPABILITIES)
            vmm.qmp.post("migrate-incoming", uri=f"fd:{STATE}")
        return vmm

    def _open_files(
        self,
        stack: contextlib.ExitStack,
        spec: MachineSpec,
        template: Template,
        uid: int,
        lower: Path,
        blank: Path,
    ) -> Files:
        """The machine's own memory and writable disk, copied from template and blank layer."""

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        memory = opened(disks.create(self._memory(spec.machine_id), uid))
        disks.copy_sparse(template.memory_fd, memory)
        folder = self._settings.machines / spec.machine_id
        folder.mkdir(exist_ok=True)
        upper = opened(disks.create(folder / "upper.ext4", uid))
        source = opened(os.open(blank, os.O_RDONLY | os.O_CLOEXEC))
        disks.copy_sparse(source, upper)
        return Files(
            memory=memory,
            upper=upper,
            lower=opened(os.open(lower, os.O_RDONLY | os.O_CLOEXEC)),
            state=opened(os.open(template.state, os.O_RDONLY | os.O_CLOEXEC)),
        )

    async def _run_guest(
        self, spec: MachineSpec, vmm: Vmm, place: Place, slot: NetSlot, trace: Trace
    ) -> Instance:
        """Tells the restored guest who it is and runs its process; a restore that fails is an error at once."""
        message = configure(
            spec,
            entropy=os.urandom(ENTROPY_BYTES),
            wall_clock_ns=time.time_ns(),
            root=m.Root(lower="/dev/vda", upper="/dev/vdb"),
            net=m.Net(
                mac=slot.mac or "",
                addresses=(f"{slot.ip}/32",),
                gateway=str(slot.gateway),
                mtu=slot.mtu,
            ),
            nameservers=self._settings.nameservers,
        )
        channel = await vmm.process.attach()
        trace.mark("attach")
        try:
            async with asyncio.timeout(RESTORE_TIMEOUT_S):
                await channel.start(message, guest_files(spec))
        except (ChannelLost, TimeoutError) as error:
            await channel.aclose()
            raise DriverError(
                f"machine {spec.machine_id} did not come up: {boot.last_words(place.rundir)}"
            ) from error
        finally:
            vmm.qmp.close()
        trace.mark("guest")
        return Instance(place.rundir, channel, vmm.process)

    async def _adopt_same(self, spec: MachineSpec) -> Handle | None:
        """What this very start left running before the worker died; anything else of the machine is cleared away."""
        rundir = self._rundir(spec.machine_id)
        if not rundir.exists():
            return None
        same = _read(rundir / "start_id") == spec.start_id
        found = shim_files.read_state(rundir)
        if same and found.shim_alive and found.exit is None:
            channel = await shim.attach(rundir)
            greeting = await channel.hello()
            if greeting.state == "running":
                slot = _read(rundir / "slot")
                await self._net.adopt(slot)
                self._instances[spec.machine_id] = Instance(rundir, channel)
                data = {"slot": slot, "uid": UID_BASE + (int(_address(spec)) & 0xFFFFFF)}
                return Handle(driver=self.name, machine_id=spec.machine_id, start_id=spec.start_id, data=data)
            await channel.aclose()
        await self.cleanup(spec.machine_id, None)
        return None

    # ── while it runs ─────────────────────────────────────────────────────────────────────────────────────────

    def _instance(self, handle: Handle) -> Instance:
        instance = self._instances.get(handle.machine_id)
        if instance is None:
            raise NotRunning(f"machine {handle.machine_id} does not run here")
        return instance

    async def wait(self, handle: Handle) -> ExitStatus:
        return await self._instance(handle).wait()

    async def signal(self, handle: Handle, signum: int) -> None:
        await self._instance(handle).signal(signum)

    async def kill(self, handle: Handle) -> None:
        instance = self._instances.get(handle.machine_id)
        if instance is not None:
            await instance.kill()

    def exec(self, handle: Handle, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        return self._instance(handle).exec(request)

    async def ps(self, handle: Handle) -> list[dict[str, Any]]:
        return await self._instance(handle).ps()

    async def stats(self, handle: Handle) -> dict[str, Any]:
        return await self._instance(handle).stats()

    async def suspend(self, spec: MachineSpec, handle: Handle) -> dict[str, Any]:
        raise NotSupported("this version of the qemu driver cannot suspend", hint="stop the machine instead")

    async def resume(self, spec: MachineSpec, snapshot: dict[str, Any], trace: Trace) -> Handle:
        raise SnapshotUnusable("this version of the qemu driver has no snapshots")

    async def discard_snapshot(self, machine_id: str, snapshot: dict[str, Any]) -> None:
        """Nothing to discard: there are no snapshots."""

    # ── afterwards ────────────────────────────────────────────────────────────────────────────────────────────

    async def cleanup(self, machine_id: str, handle: Handle | None) -> None:
        rundir = self._rundir(machine_id)
        instance = self._instances.pop(machine_id, None)
        if instance is not None:
            await instance.end(grace_s=0.0)
        await asyncio.to_thread(kill_leftover, rundir)
        slot = _read(rundir / "slot") or (handle.data.get("slot", "") if handle else "")
        if slot:
            with contextlib.suppress(Exception):
                await self._net.give_back(await self._net.adopt(slot))
        cgroup = self._cgroups.get(machine_id)
        if cgroup.exists():
            await cgroup.remove()
        self._memory(machine_id).unlink(missing_ok=True)
        (self._settings.machines / machine_id / "upper.ext4").unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, rundir, ignore_errors=True)

    async def destroy(self, machine_id: str) -> None:
        await self.cleanup(machine_id, None)
        await asyncio.to_thread(shutil.rmtree, self._settings.machines / machine_id, ignore_errors=True)

    async def recover(self, handle: Handle) -> Recovered:
        rundir = self._rundir(handle.machine_id)
        if _read(rundir / "start_id") != handle.start_id:
            return Lost(reason="its run directory is gone, as after a restart of the host")
        found = shim_files.read_state(rundir)
        if found.exit is not None or found.ended is not None or not found.shim_alive:
            return Exited(status=exit_status(found.exit, found.ended))
        try:
            channel = await shim.attach(rundir)
            await channel.hello()
        except (ChannelLost, DriverError):
            found = shim_files.read_state(rundir)
            return Exited(status=exit_status(found.exit, found.ended))
        await self._net.adopt(handle.data["slot"])
        self._instances[handle.machine_id] = Instance(rundir, channel)
        return Running(handle=handle)

    async def sweep(self, known: set[str]) -> list[str]:
        removed = []
        for rundir in list(self._settings.rundir.iterdir()):
            if rundir.name not in known:
                await self.destroy(rundir.name)
                removed.append(str(rundir))
        claimed = {_read(rundir / "slot") for rundir in self._settings.rundir.iterdir()}
        removed += await self._net.sweep(claimed)
        removed += await self._cgroups.sweep(known)
        for stray in self._settings.memory_dir.iterdir():
            if stray.stem not in known:
                stray.unlink(missing_ok=True)
                removed.append(str(stray))
        return removed

    # ── paths ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _rundir(self, machine_id: str) -> Path:
        return self._settings.rundir / machine_id

    def _memory(self, machine_id: str) -> Path:
        return self._settings.memory_dir / f"{machine_id}.mem"

    def _cgroup(self, spec: MachineSpec) -> Cgroup:
        limits = Limits(
            memory_bytes=(spec.shape.memory_mb + VMM_OVERHEAD_MB) * MIB,
            cpus=float(spec.shape.cpus),
            pids_max=PIDS_MAX,
        )
        return self._cgroups.create(spec.machine_id, limits)


def _address(spec: MachineSpec) -> IPv4Address:
    if spec.network is None:
        raise DriverError(f"machine {spec.machine_id} has no address")
    return IPv4Address(spec.network.ipv4)


def _fresh(rundir: Path) -> None:
    shutil.rmtree(rundir, ignore_errors=True)
    rundir.mkdir(parents=True, mode=0o700)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
