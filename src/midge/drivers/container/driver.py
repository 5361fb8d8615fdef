"""The driver's verbs on an OCI runtime. See `midge.drivers.base.Driver`.

::

                 start               process ends
    (nothing) ─────────► running ───────────────────► ended ── cleanup ──► (nothing)
                          │   ▲                                                ▲
                  suspend │   │ resume                                         │
                          ▼   │                                                │
                         frozen ─── discard_snapshot · destroy ────────────────┘

A suspended machine is frozen in place and keeps its memory. Its run directory says so, and `cleanup` leaves it alone.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from midge import binaries
from midge.cgroup import CgroupTree
from midge.drivers import rundir as rundirs
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
from midge.drivers.container import runtime, seccomp
from midge.drivers.container.groups import thaw
from midge.drivers.container.launch import Launcher
from midge.drivers.container.overlay import Layers
from midge.drivers.container.place import Place, Places
from midge.drivers.container.run import Run, with_oom
from midge.drivers.container.settings import ContainerSettings
from midge.drivers.container.supply import Container, LayerSource, Supply
from midge.drivers.instance import Instance, exit_status, is_over
from midge.drivers.keepers import Keepers
from midge.drivers.links import MachineLinks
from midge.drivers.rundir import RunRecord
from midge.drivers.threads import all_of
from midge.errors import DeadlineExceeded, NotFound, NotRunning, SnapshotUnusable
from midge.guest.errors import ChannelLost
from midge.machine.spec import ExitStatus, MachineSpec
from midge.net.pool import NetPool

SUSPENDED_NAME = "suspended"  # holds the start_id of the run that is frozen
HELLO_TIMEOUT_S = 10.0  # answer of an init that runs already
_MACHINE = "machine"  # in the data of a run's record: whose it is

_log = structlog.get_logger("midge.container")


class ContainerDriver:
    """Machines as containers of an OCI runtime. `net` and `cgroups` are open before it and close after it."""

    name = "container"
    capabilities = Capabilities(suspend="freeze")

    def __init__(
        self, settings: ContainerSettings, *, images: LayerSource, net: NetPool, cgroups: CgroupTree
    ) -> None:
        self._settings = settings
        self._images = images
        self._net = net
        self._places = Places(settings, net, cgroups)
        self._links = MachineLinks(settings.rundir)
        self._runs: dict[str, Run] = {}
        self._parts: tuple[Launcher, Supply] | None = None
        self._keepers = Keepers()

    async def open(self) -> None:
        settings = self._settings
        found = await runtime.find(settings.runtime)
        binaries.find("midge-shim")
        launcher = Launcher(
            settings=settings,
            runtime=found,
            init=binaries.find("midge-init"),
            seccomp=seccomp.profile(os.uname().machine) if settings.seccomp else None,
        )
        self._places.open()
        supply = Supply(settings, images=self._images, places=self._places, launcher=launcher)
        self._parts = launcher, supply
        self._keepers.begin("warm slots", supply.pool.run)
        _log.info("container", runtime=found.version, sealed=found.sealed is not None)

    async def aclose(self) -> None:
        await self._keepers.aclose()
        for run in self._runs.values():
            await run.instance.detach()
        self._runs.clear()
        self._places.groups.close()
        if self._parts is not None:
            self._launcher.runtime.close()
            self._parts = None

    @property
    def _launcher(self) -> Launcher:
        return self._opened[0]

    @property
    def _supply(self) -> Supply:
        return self._opened[1]

    @property
    def _opened(self) -> tuple[Launcher, Supply]:
        assert self._parts is not None, "open() first"
        return self._parts

    def statistics(self) -> dict[str, int]:
        return {"warm_slots": self._supply.pool.statistics()["ready"]}

    # ── start ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def prepare(self, spec: MachineSpec) -> None:
        await self._images.layer_dirs(spec.image.digest)
        self._supply.want(spec)

    async def start(self, spec: MachineSpec, trace: Trace) -> Handle:
        if await self._is_started(spec):
            return self._handle(spec)
        kept, supply = self._kept(spec.machine_id), self._supply
        if not spec.rootfs_persist and kept.folder.exists():
            await asyncio.to_thread(kept.discard)
        supply.pool.begin_start()
        try:
            container = supply.take(spec)
            await (
                self._start_new(spec, trace) if container is None else self._start_in(container, spec, trace)
            )
        finally:
            supply.want(spec)
            supply.pool.end_start()
        return self._handle(spec)

    async def _start_in(self, container: Container, spec: MachineSpec, trace: Trace) -> None:
        """In a container that waited."""
        self._own(container.place, spec)
        trace.mark("slot")
        try:
            await self._supply.become(container, spec)
            trace.mark("claim")
        except BaseException:
            await container.channel.aclose()
            raise
        with rundirs.telling(container.place.rundir):
            instance = await self._launcher.run_guest(spec, container.process, container.channel, trace)
        self._runs[spec.machine_id] = Run(spec.start_id, container.name, instance, container.place.cgroup)

    async def _start_new(self, spec: MachineSpec, trace: Trace) -> None:
        """In a container of its own from the beginning."""
        lower = await self._supply.lower(spec.image.digest)
        trace.mark("image")
        kept = self._kept(spec.machine_id) if spec.rootfs_persist else None
        place = await self._places.make(lower.paths, network=spec.network is not None, persistent=kept)
        self._own(place, spec)
        self._launcher.write_bundle(place, spec.hostname, spec.shape.memory_mb)
        if not self._launcher.runtime.shares_kernel:
            await self._places.assign(place, spec)
        trace.mark("bundle")
        launching = asyncio.ensure_future(self._launcher.launch(place, Path(spec.log_path)))
        if self._launcher.runtime.shares_kernel:
            # While the runtime is at work: init does nothing before it is told.
            await all_of(launching, self._places.assign(place, spec))
        process = await launching
        trace.mark("launch")
        with rundirs.telling(place.rundir):
            instance = await self._launcher.run_guest(spec, process, trace=trace)
        self._runs[spec.machine_id] = Run(spec.start_id, place.name, instance, place.cgroup)

    def _own(self, place: Place, spec: MachineSpec) -> None:
        """Writes down whose it is, at once: whoever is cancelled or killed after this has it on record."""
        slot = place.slot.name if place.slot else ""
        record = RunRecord(start_id=spec.start_id, slot=slot, data={_MACHINE: spec.machine_id})
        rundirs.write_record(place.rundir, record)
        self._links.link(spec.machine_id, place.name)

    async def _is_started(self, spec: MachineSpec) -> bool:
        """Whether this very start has been made, and runs or has ended; clears away anything else of the machine."""
        machine_id = spec.machine_id
        name, record = self._find(machine_id)
        if name is None:
            return False
        if record is not None and record.start_id == spec.start_id and not self._suspended(machine_id):
            rundir = self._places.rundir(name)
            found = shim_files.read_state(rundir)
            if found.shim_alive and found.exit is None and found.ended is None:
                run = await self._take_over(machine_id, name, record, greet=True)
                greeting = run.instance.channel.guest if run else None
                if greeting is not None and greeting.state == "running":
                    return True
            if is_over(record, shim_files.read_state(rundir)):
                return True  # which `wait` will say
        await self._clear(machine_id)
        return False

    def _find(self, machine_id: str) -> tuple[str | None, RunRecord | None]:
        """The name of the machine's container, and its record; no record where the run directory is gone."""
        name = self._links.find(machine_id)
        record = rundirs.read_record(self._places.rundir(name)) if name is not None else None
        if record is not None and record.data.get(_MACHINE) != machine_id:
            return None, None  # the name is another's by now
        return name, record

    async def _take_over(self, machine_id: str, name: str, record: RunRecord, *, greet: bool) -> Run | None:
        """Attaches to a machine whose shim runs; None if it ended meanwhile. A frozen init cannot be greeted."""
        rundir = self._places.rundir(name)
        before = self._runs.pop(machine_id, None)
        process = before.instance.process if before else None
        if before is not None:
            await before.instance.channel.aclose()
        try:
            channel = await shim.attach(rundir)
        except ChannelLost:
            return None
        try:
            if greet:
                await channel.hello(timeout_s=HELLO_TIMEOUT_S)
            if record.slot:
                await self._net.adopt(record.slot)
        except (ChannelLost, DeadlineExceeded, NotFound) as error:
            _log.warning("machine cannot be taken over", machine=machine_id, error=str(error))
            await channel.aclose()
            return None
        run = Run(record.start_id, name, Instance(rundir, channel, process), self._places.groups.get(name))
        self._runs[machine_id] = run
        return run

    # ── while it runs ─────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, handle: Handle) -> Run:
        """Raises: NotRunning, HandleUnknown."""
        handle.check()
        run = self._runs.get(handle.machine_id)
        if run is None or run.start_id != handle.start_id:
            raise NotRunning(f"machine {handle.machine_id} does not run here")
        return run

    async def wait(self, handle: Handle) -> ExitStatus:
        handle.check()
        run = self._runs.get(handle.machine_id)
        if run is not None and run.start_id == handle.start_id:
            return await run.wait()
        return self._recorded_exit(handle)

    def _recorded_exit(self, handle: Handle) -> ExitStatus:
        """How a run ended that nobody has in hand, as its shim has it."""
        name, record = self._find(handle.machine_id)
        if name is None or record is None or record.start_id != handle.start_id:
            raise NotRunning(f"machine {handle.machine_id} does not run here")
        found = shim_files.read_state(self._places.rundir(name))
        return with_oom(exit_status(found.exit, found.ended), self._places.groups.get(name))

    async def signal(self, handle: Handle, signum: int) -> None:
        with suppress(NotRunning):
            await self._run(handle).instance.signal(signum)

    async def kill(self, handle: Handle) -> None:
        with suppress(NotRunning):
            await self._run(handle).kill()

    def exec(self, handle: Handle, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        return self._run(handle).instance.exec(request)

    async def ps(self, handle: Handle) -> list[dict[str, Any]]:
        return await self._run(handle).instance.ps()

    async def stats(self, handle: Handle) -> dict[str, Any]:
        run = self._run(handle)
        return run.own_figures(await run.instance.stats())

    # ── suspend: frozen in place ──────────────────────────────────────────────────────────────────────────────

    async def suspend(self, spec: MachineSpec, handle: Handle) -> dict[str, Any]:
        run = self._run(handle)
        marker = self._places.rundir(run.name) / SUSPENDED_NAME
        # Before freezing: a worker that dies in between must not wait for the answer of a frozen init.
        marker.write_text(run.start_id)
        try:
            await run.cgroup.freeze()
        except BaseException:
            thaw(run.cgroup)
            marker.unlink()
            raise
        return {"start_id": run.start_id}

    async def resume(self, spec: MachineSpec, snapshot: dict[str, Any], trace: Trace) -> Handle:
        machine_id = spec.machine_id
        (name, record), suspended = self._find(machine_id), self._suspended(machine_id)
        ours = (snapshot.get("start_id"), spec.start_id)
        if name is None or record is None or (suspended or record.start_id) not in ours:
            raise SnapshotUnusable(f"machine {machine_id} is not frozen here", hint="was the host restarted?")
        rundir = self._places.rundir(name)
        found = shim_files.read_state(rundir)
        if not suspended and record.start_id == spec.start_id and is_over(record, found):
            return self._handle(spec)  # this resume has been made, and `wait` will say how its process ended
        if not found.shim_alive:
            raise SnapshotUnusable(f"machine {machine_id} has ended while it was frozen")
        thaw(self._places.groups.get(name))
        trace.mark("thaw")
        record = msgspec.structs.replace(record, start_id=spec.start_id)
        run = self._runs.get(machine_id)
        if run is not None and run.instance.channel.guest is not None:
            self._runs[machine_id] = Run(spec.start_id, name, run.instance, run.cgroup)
        elif await self._take_over(machine_id, name, record, greet=True) is None:
            raise SnapshotUnusable(f"machine {machine_id} does not answer after it was thawed")
        rundirs.write_record(rundir, record)
        (rundir / SUSPENDED_NAME).unlink(missing_ok=True)
        trace.mark("guest")
        return self._handle(spec)

    async def go_on(self, spec: MachineSpec, handle: Handle, trace: Trace) -> Handle:
        """Frozen or not, it is the run it was."""
        handle.check()
        same = msgspec.structs.replace(spec, start_id=handle.start_id)
        return await self.resume(same, {"start_id": handle.start_id}, trace)

    async def discard_snapshot(self, machine_id: str, snapshot: dict[str, Any]) -> None:
        """The snapshot is the frozen machine itself."""
        if self._suspended(machine_id):
            await self._clear(machine_id)

    def _suspended(self, machine_id: str) -> str:
        """The start_id of the run that is frozen, or empty."""
        name, _ = self._find(machine_id)
        if name is not None:
            with suppress(FileNotFoundError):
                return (self._places.rundir(name) / SUSPENDED_NAME).read_text()
        return ""

    # ── afterwards ────────────────────────────────────────────────────────────────────────────────────────────

    async def cleanup(self, machine_id: str, handle: Handle | None) -> None:
        if self._suspended(machine_id):
            run = self._runs.get(machine_id)
            if run is not None:
                run.leave()
            return
        await self._clear(machine_id)

    async def _clear(self, machine_id: str) -> None:
        """Ends the machine if it runs, gives everything back. Repeatable, in whatever state it was left."""
        run = self._runs.pop(machine_id, None)
        if run is not None:
            run.leave()
        name, _ = self._find(machine_id)
        if name is not None:
            await self._places.remove(name, run.instance if run is not None else None)
        self._links.unlink(machine_id)

    async def destroy(self, machine_id: str) -> None:
        await self._clear(machine_id)
        await asyncio.to_thread(self._kept(machine_id).discard)

    async def recover(self, handle: Handle) -> Recovered:
        handle.check()
        machine_id = handle.machine_id
        name, record = self._find(machine_id)
        if name is None or record is None or record.start_id != handle.start_id:
            return Lost(reason="its run directory is gone, as after a restart of the host")
        found = shim_files.read_state(self._places.rundir(name))
        if found.exit is None and found.ended is None and found.shim_alive:
            run = await self._take_over(machine_id, name, record, greet=not self._suspended(machine_id))
            if run is not None:
                return Running(handle=handle)
        return Exited(status=self._recorded_exit(handle))

    async def sweep(self, known: set[str]) -> list[str]:
        kept = {entry.name for entry in self._settings.machines.iterdir()}
        strays = (self._links.machines() | kept) - known
        for machine_id in strays:
            await self.destroy(machine_id)
        found = (self._find(machine_id) for machine_id in self._links.machines())
        claimed = {name for name, record in found if name is not None and record is not None}
        # A sweep comes before any start or removal is under way, so all else that is right is in the pool.
        return [*sorted(strays), *await self._places.sweep(claimed | self._supply.pool.names())]

    def _handle(self, spec: MachineSpec) -> Handle:
        name = self._links.find(spec.machine_id)
        return Handle(
            driver=self.name, machine_id=spec.machine_id, start_id=spec.start_id, data={"container": name}
        )

    def _kept(self, machine_id: str) -> Layers:
        """The writable layer of a machine whose root is to persist."""
        return Layers(self._settings.machines / machine_id)
