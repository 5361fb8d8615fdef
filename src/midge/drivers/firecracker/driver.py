"""The driver's verbs on Firecracker. See `midge.drivers.base.Driver`."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog

from midge import binaries
from midge.cgroup import CgroupTree
from midge.drivers import disks, shim, shim_files
from midge.drivers import rundir as rundirs
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
from midge.drivers.firecracker import boot, usable
from midge.drivers.firecracker import version as versions
from midge.drivers.firecracker.api import Refused
from midge.drivers.firecracker.guest import device_names, greet
from midge.drivers.firecracker.jail import check_base
from midge.drivers.firecracker.places import Places
from midge.drivers.firecracker.recipe import Recipe
from midge.drivers.firecracker.settings import FirecrackerSettings
from midge.drivers.firecracker.start import GUEST_TIMEOUT_S, Starter, furnish, wake
from midge.drivers.firecracker.suspend import Snapshots, Target, differences, disk_identity
from midge.drivers.firecracker.version import Programs
from midge.drivers.instance import Instance, exit_status, is_over
from midge.drivers.rundir import RunRecord
from midge.drivers.templates import TemplateStore
from midge.errors import DeadlineExceeded, DriverError, NotFound, NotRunning, NotSupported, SnapshotUnusable
from midge.guest.channel import GuestChannel
from midge.guest.errors import ChannelLost, GuestRefused
from midge.kernel.store import Kernel, KernelStore
from midge.machine.spec import ExitStatus, MachineSpec, Shape
from midge.net.pool import NetPool

END_GRACE_S = 2.0  # from the exit of a machine's process until its guest has powered off
ID_CHARS_MAX = 16  # of a machine's id, and of a boot's
VCPUS_MAX = 32  # of Firecracker

_log = structlog.get_logger("midge.firecracker")


class Rootfs(Protocol):
    """The driver's view of the image store."""

    async def erofs(self, digest: str) -> Path:
        """The image as a file, readable by all."""
        ...


class FirecrackerDriver:
    """Machines as jailed Firecracker VMs, started from templates."""

    name = "firecracker"
    capabilities = Capabilities(suspend="memory")

    def __init__(
        self, settings: FirecrackerSettings, *, images: Rootfs, net: NetPool, cgroups: CgroupTree
    ) -> None:
        self._settings = settings
        self._images = images
        self._net = net
        self._cgroups = cgroups
        self._templates: TemplateStore[Recipe] = TemplateStore(
            settings.templates, self._build_template, key_file=settings.key_file
        )
        self._snapshots = Snapshots(settings.snapshots, key_file=settings.key_file)
        self._instances: dict[str, tuple[str, Instance]] = {}
        self._opened: tuple[Programs, Kernel, Places] | None = None

    async def open(self) -> None:
        """Also raises NotSupported where no guest boots. Repeatable, so that `auto` can ask and then use it."""
        if self._opened is not None:
            return
        settings = self._settings
        programs = await versions.find(settings.firecracker, settings.jailer)
        usable.check_device()
        binaries.find("midge-shim")
        for folder in (
            settings.rundir,
            settings.jails,
            settings.machines,
            settings.templates,
            settings.snapshots,
        ):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_base(settings.jails, programs.firecracker.name, ID_CHARS_MAX)
        init = binaries.find("midge-init")
        kernel = await KernelStore(settings.kernels).ensure(settings.kernel_flavour, init_binary=init)
        if not kernel.elf:
            raise NotSupported(
                f"guest kernel {kernel.version} is no ELF file, which firecracker needs",
                hint="midge kernel build",
            )
        places = Places(settings, programs.firecracker.name, net=self._net, cgroups=self._cgroups)
        self._opened = (programs, kernel, places)
        try:
            await usable.prove(self._templates, self._recipe(Shape()))
        except BaseException:
            self._opened = None
            raise
        _log.info("firecracker", version=programs.version.text, kernel=kernel.version)

    async def aclose(self) -> None:
        for _, instance in self._instances.values():
            await instance.detach()
        self._instances.clear()
        self._opened = None

    # ── ahead of a start ──────────────────────────────────────────────────────────────────────────────────────

    def _parts(self) -> tuple[Programs, Kernel, Places]:
        assert self._opened is not None, "open() first"
        return self._opened

    @property
    def _places(self) -> Places:
        return self._parts()[2]

    @property
    def _starter(self) -> Starter:
        return Starter(self._settings, self._parts()[0])

    def _recipe(self, shape: Shape) -> Recipe:
        programs, kernel, _ = self._parts()
        if shape.cpus > VCPUS_MAX:
            raise NotSupported(f"firecracker gives a machine at most {VCPUS_MAX} CPUs, not {shape.cpus}")
        return Recipe(
            shape=shape,
            kernel=kernel,
            version=programs.version.text,
            upper_mb=self._settings.rootfs_mb,
            track_dirty_pages=self._settings.track_dirty_pages,
        )

    async def _build_template(self, recipe: Recipe, folder: Path) -> None:
        await boot.build(self._settings, self._parts()[0], self._net, recipe, folder)

    def statistics(self) -> dict[str, int]:
        return {}

    async def prepare(self, spec: MachineSpec) -> None:
        await self._images.erofs(spec.image.digest)
        await disks.blank_layer(self._settings.blanks, self._settings.rootfs_mb)
        await self._templates.ensure(self._recipe(spec.shape))

    # ── start ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, spec: MachineSpec, trace: Trace) -> Handle:
        if await self._is_started(spec):
            return self._handle(spec)
        lower = await self._images.erofs(spec.image.digest)
        blank = await disks.blank_layer(self._settings.blanks, self._settings.rootfs_mb)
        template = await self._templates.ensure(self._recipe(spec.shape))
        trace.mark("template")
        place = await self._places.make(spec)
        upper = await asyncio.to_thread(self._places.make_upper, spec, place.jail.uid, blank)
        await asyncio.to_thread(furnish, place, lower, upper, template.folder)
        trace.mark("jail")
        try:
            process = await self._starter.restore(spec, place, None, trace)
        except Refused:
            await self._templates.forget(template.key)
            raise
        tell = partial(self._starter.configure, spec, place, trace)
        with rundirs.telling(place.rundir):
            self._keep(spec, await self._starter.enter(spec, place, process, tell))
        return self._handle(spec)

    def _keep(self, spec: MachineSpec, instance: Instance) -> None:
        self._instances[spec.machine_id] = (spec.start_id, instance)

    async def _is_started(self, spec: MachineSpec) -> bool:
        """Whether this very start has been made, and runs or has ended; clears away anything else of the machine."""
        machine_id = spec.machine_id
        rundir = self._places.rundir(machine_id)
        if not rundir.exists():
            return False
        record = rundirs.read_record(rundir)
        if record is not None and record.start_id == spec.start_id:
            found = shim_files.read_state(rundir)
            if found.shim_alive and found.exit is None and found.ended is None:
                instance = await self._take_over(machine_id, record)
                greeting = instance.channel.guest if instance else None
                if greeting is not None and greeting.state == "running":
                    return True
            if is_over(record, shim_files.read_state(rundir)):
                return True  # which `wait` will say
        await self._clear(machine_id)
        return False

    async def _take_over(self, machine_id: str, record: RunRecord) -> Instance | None:
        """Attaches to a machine whose shim runs; None if it has ended, or does not answer."""
        before = self._instances.pop(machine_id, None)
        if before is not None:
            await before[1].detach()
        rundir = self._places.rundir(machine_id)
        try:
            channel = await shim.attach(rundir)
        except ChannelLost:
            return None
        try:
            await self._places.adopt_slot(record.slot)
            if self._snapshots.is_under_way(machine_id):
                await self._snapshots.undo(self._target(machine_id, record, channel, memory_mb=0))
            elif not await self._is_saved(machine_id, record.start_id):
                await greet(channel, GUEST_TIMEOUT_S)
        except (ChannelLost, DeadlineExceeded, DriverError, NotFound, TimeoutError) as error:
            _log.warning("machine cannot be taken over", machine=machine_id, error=str(error))
            await channel.aclose()
            return None
        instance = Instance(rundir, channel)
        self._instances[machine_id] = (record.start_id, instance)
        return instance

    # ── while it runs ─────────────────────────────────────────────────────────────────────────────────────────

    def _instance(self, handle: Handle) -> Instance:
        """Raises: NotRunning, HandleUnknown."""
        handle.check()
        start_id, instance = self._instances.get(handle.machine_id, ("", None))
        if instance is None or start_id != handle.start_id:
            raise NotRunning(f"machine {handle.machine_id} does not run here")
        return instance

    async def wait(self, handle: Handle) -> ExitStatus:
        with suppress(NotRunning):
            return await self._instance(handle).wait()
        return self._recorded_exit(handle)

    def _recorded_exit(self, handle: Handle) -> ExitStatus:
        """How a run ended that nobody has in hand, as its shim has it."""
        rundir = self._places.rundir(handle.machine_id)
        record = rundirs.read_record(rundir)
        if record is None or record.start_id != handle.start_id:
            raise NotRunning(f"machine {handle.machine_id} does not run here")
        found = shim_files.read_state(rundir)
        return exit_status(found.exit, found.ended)

    async def signal(self, handle: Handle, signum: int) -> None:
        with suppress(NotRunning):
            await self._instance(handle).signal(signum)

    async def kill(self, handle: Handle) -> None:
        with suppress(NotRunning):
            await self._instance(handle).kill()

    def exec(self, handle: Handle, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        return self._instance(handle).exec(request)

    async def ps(self, handle: Handle) -> list[dict[str, Any]]:
        return await self._instance(handle).ps()

    async def stats(self, handle: Handle) -> dict[str, Any]:
        return await self._instance(handle).stats()

    # ── suspend ───────────────────────────────────────────────────────────────────────────────────────────────

    async def suspend(self, spec: MachineSpec, handle: Handle) -> dict[str, Any]:
        handle.check()
        machine_id = handle.machine_id
        record = rundirs.read_record(self._places.rundir(machine_id))
        if not await self._is_saved(machine_id, handle.start_id):
            if record is None:
                raise NotRunning(f"machine {machine_id} does not run here")
            channel = self._instance(handle).channel
            target = self._target(machine_id, record, channel, spec.shape.memory_mb)
            metadata = {**self._facts(spec), "start_id": handle.start_id, **device_names("tap0")}
            await self._snapshots.save(target, metadata, diff=self._settings.track_dirty_pages)
        elif record is not None and machine_id in self._instances:
            # A worker died between publishing the snapshot and ending the VMM.
            channel = self._instance(handle).channel
            await self._snapshots.end(self._target(machine_id, record, channel, spec.shape.memory_mb))
        return {"start_id": handle.start_id}

    async def _is_saved(self, machine_id: str, start_id: str) -> bool:
        """Whether this very run is on disk: its VMM, if it still exists, stands still and must not go on."""
        if not self._snapshots.exists(machine_id):
            return False
        with suppress(SnapshotUnusable):
            saved = await self._snapshots.verify(machine_id)
            return bool(saved.get("start_id") == start_id)
        return False

    def _facts(self, spec: MachineSpec) -> dict[str, Any]:
        """What must agree between the machine that was suspended and the one that is resumed."""
        return {
            **self._recipe(spec.shape).facts(),
            "machine": spec.machine_id,
            "image": spec.image.digest,
        }

    def _target(self, machine_id: str, record: RunRecord, channel: GuestChannel, memory_mb: int) -> Target:
        return Target(
            machine_id=machine_id,
            rundir=self._places.rundir(machine_id),
            jail=self._places.jail(machine_id, int(record.data["uid"])),
            cgroup=self._places.cgroup(machine_id),
            channel=channel,
            memory_mb=memory_mb,
            upper=self._places.upper(machine_id),
        )

    async def resume(self, spec: MachineSpec, snapshot: dict[str, Any], trace: Trace) -> Handle:
        machine_id = spec.machine_id
        if await self._is_started(spec):
            await self._finish_resume(machine_id)
            return self._handle(spec)
        saved = await self._verified(spec, snapshot)
        trace.mark("verify")
        lower = await self._images.erofs(spec.image.digest)
        place = await self._places.make(spec)
        folder, upper = self._snapshots.folder(machine_id), self._places.upper(machine_id)
        try:
            await asyncio.to_thread(self._places.own_upper, machine_id, place.jail.uid)
            await asyncio.to_thread(furnish, place, lower, upper, folder)
            process = await self._starter.restore(spec, place, saved, trace)
            self._keep(spec, await self._starter.enter(spec, place, process, wake))
        except (Refused, FileNotFoundError, GuestRefused) as error:
            raise SnapshotUnusable(f"machine {machine_id} could not be restored") from error
        # Its files stay for as long as the jail has them open.
        await self._snapshots.remove(machine_id)
        trace.mark("guest")
        return self._handle(spec)

    async def go_on(self, spec: MachineSpec, handle: Handle, trace: Trace) -> Handle:
        handle.check()
        machine_id = spec.machine_id
        start_id, instance = self._instances.get(machine_id, ("", None))
        in_hand = instance is not None and start_id == handle.start_id and instance.channel.guest is not None
        if in_hand and not await self._is_saved(machine_id, start_id):
            return handle
        return await self.resume(spec, {"start_id": handle.start_id}, trace)

    async def _finish_resume(self, machine_id: str) -> None:
        """After a worker that died between restoring the guest and saying so."""
        _, instance = self._instances.get(machine_id, ("", None))
        if instance is not None:
            with suppress(ChannelLost):
                await wake(instance.channel)
        await self._snapshots.remove(machine_id)

    async def _verified(self, spec: MachineSpec, snapshot: dict[str, Any]) -> dict[str, Any]:
        saved = await self._snapshots.verify(spec.machine_id)
        try:
            disk = await asyncio.to_thread(disk_identity, self._places.upper(spec.machine_id))
        except OSError as error:
            raise SnapshotUnusable(f"the disk of machine {spec.machine_id} is gone") from error
        wanted = {**self._facts(spec), "start_id": snapshot.get("start_id"), "upper": disk}
        if found := differences({name: saved.get(name) for name in wanted}, wanted):
            raise SnapshotUnusable(f"snapshot of machine {spec.machine_id} does not fit any more: {found}")
        return saved

    async def discard_snapshot(self, machine_id: str, snapshot: dict[str, Any]) -> None:
        await self._snapshots.remove(machine_id)

    # ── afterwards ────────────────────────────────────────────────────────────────────────────────────────────

    async def cleanup(self, machine_id: str, handle: Handle | None) -> None:
        await self._clear(machine_id)

    async def _clear(self, machine_id: str) -> None:
        _, instance = self._instances.pop(machine_id, ("", None))
        if instance is not None:
            await instance.end(END_GRACE_S if instance.channel.exit is not None else 0.0)
        await self._places.clear(machine_id, keep_upper=self._snapshots.exists(machine_id))

    async def destroy(self, machine_id: str) -> None:
        await self._snapshots.remove(machine_id)
        await self._clear(machine_id)
        await self._places.remove(machine_id)

    async def recover(self, handle: Handle) -> Recovered:
        handle.check()
        machine_id = handle.machine_id
        rundir = self._places.rundir(machine_id)
        record = rundirs.read_record(rundir)
        if record is None or record.start_id != handle.start_id:
            return Lost(reason="its run directory is gone, as after a restart of the host")
        found = shim_files.read_state(rundir)
        if (
            found.exit is None
            and found.ended is None
            and found.shim_alive
            and await self._take_over(machine_id, record) is not None
        ):
            return Running(handle=handle)
        return Exited(status=self._recorded_exit(handle))

    async def sweep(self, known: set[str]) -> list[str]:
        strays = (self._places.machines() | self._snapshots.machines()) - known
        for name in strays:
            await self.destroy(name)
        return [*sorted(strays), *await self._templates.sweep(), *await self._places.sweep(known)]

    def _handle(self, spec: MachineSpec) -> Handle:
        return Handle(driver=self.name, machine_id=spec.machine_id, start_id=spec.start_id)
