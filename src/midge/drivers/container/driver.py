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
import shutil
from contextlib import AbstractAsyncContextManager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Protocol

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
from midge.drivers.container import overlay, runtime, seccomp
from midge.drivers.container.groups import Groups
from midge.drivers.container.launch import ROOT_NAME, Launcher
from midge.drivers.container.overlay import Layers
from midge.drivers.container.run import END_GRACE_S, Run, with_oom
from midge.drivers.container.settings import ContainerSettings
from midge.drivers.instance import Instance, exit_status, kill_leftover
from midge.drivers.rundir import RunRecord
from midge.errors import DeadlineExceeded, NotFound, NotRunning, SnapshotUnusable
from midge.guest.errors import ChannelLost
from midge.machine.spec import ExitStatus, MachineSpec
from midge.net.pool import NetPool
from midge.net.slot import NetSlot

SUSPENDED_NAME = "suspended"  # holds the start_id of the run that is frozen
HELLO_TIMEOUT_S = 10.0  # answer of an init that runs already

_log = structlog.get_logger("midge.container")


class LayerSource(Protocol):
    """The driver's view of the image store."""

    async def layer_dirs(self, digest: str) -> list[Path]:
        """Directories for overlayfs, topmost first; at least one."""
        ...


class ContainerDriver:
    """Machines as containers of an OCI runtime. `net` and `cgroups` are open before it and close after it."""

    name = "container"
    capabilities = Capabilities(isolation="container", suspend="freeze", network="veth")

    def __init__(
        self, settings: ContainerSettings, *, images: LayerSource, net: NetPool, cgroups: CgroupTree
    ) -> None:
        self._settings = settings
        self._images = images
        self._net = net
        self._groups = Groups(cgroups, settings.pids_max)
        self._runs: dict[str, Run] = {}
        self._launcher: Launcher | None = None

    async def open(self) -> None:
        settings = self._settings
        found = await runtime.find(settings.runtime)
        binaries.find("midge-shim")
        self._launcher = Launcher(
            settings=settings,
            runtime=found,
            init=binaries.find("midge-init"),
            seccomp=seccomp.profile(os.uname().machine) if settings.seccomp else None,
        )
        for folder in (settings.rundir, settings.machines):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._groups.open()
        _log.info("container", runtime=found.version, sealed=found.sealed is not None)

    async def aclose(self) -> None:
        for run in self._runs.values():
            await run.instance.detach()
        self._runs.clear()
        self._groups.close()
        if self._launcher is not None:
            self._launcher.runtime.close()
            self._launcher = None

    # ── start ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def prepare(self, spec: MachineSpec) -> None:
        await self._images.layer_dirs(spec.image.digest)

    async def start(self, spec: MachineSpec, trace: Trace) -> Handle:
        assert self._launcher is not None, "open() first"
        machine_id, rundir = spec.machine_id, self._rundir(spec.machine_id)
        if await self._is_started(spec):
            return self._handle(spec)
        lower = await self._images.layer_dirs(spec.image.digest)
        trace.mark("image")
        layers = self._layers(machine_id)
        await asyncio.to_thread(_make_folders, rundir, layers, lower, persist=spec.rootfs_persist)
        cgroup = await self._groups.create(spec)
        slot = await self._take_slot(spec)
        self._launcher.write_bundle(spec, rundir, layers, lower, slot, self._groups.path(machine_id))
        trace.mark("bundle")
        process = await self._launcher.launch(spec, rundir)
        trace.mark("launch")
        instance = await self._launcher.run_guest(spec, process)
        self._runs[machine_id] = Run(spec.start_id, slot.name if slot else "", instance, cgroup)
        trace.mark("guest")
        return self._handle(spec)

    async def _is_started(self, spec: MachineSpec) -> bool:
        """Takes over what this very start left before the worker died; clears away anything else of the machine."""
        machine_id = spec.machine_id
        rundir = self._rundir(machine_id)
        if not rundir.exists():
            return False
        record = rundirs.read_record(rundir)
        if record is not None and record.start_id == spec.start_id and not self._suspended(machine_id):
            found = shim_files.read_state(rundir)
            if found.exit is not None:
                return True  # it ran and has ended, which `wait` will say
            run = await self._take_over(machine_id, record, greet=True) if found.shim_alive else None
            greeting = run.instance.channel.guest if run else None
            if greeting is not None and greeting.state == "running":
                return True
        await self._clear(machine_id)
        return False

    async def _take_slot(self, spec: MachineSpec) -> NetSlot | None:
        rundir = self._rundir(spec.machine_id)
        slot = None
        if spec.network is not None:
            slot = await self._net.take("veth", IPv4Address(spec.network.ipv4), spec.network.mac)
        # No await in between: whoever is cancelled here has the slot on record.
        rundirs.write_record(rundir, RunRecord(start_id=spec.start_id, slot=slot.name if slot else ""))
        return slot

    async def _take_over(self, machine_id: str, record: RunRecord, *, greet: bool) -> Run | None:
        """Attaches to a machine whose shim runs; None if it ended meanwhile. A frozen init cannot be greeted."""
        rundir = self._rundir(machine_id)
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
        instance = Instance(rundir, channel, process)
        run = Run(record.start_id, record.slot, instance, self._groups.get(machine_id))
        self._runs[machine_id] = run
        return run

    # ── while it runs ─────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, handle: Handle) -> Run:
        run = self._runs.get(handle.machine_id)
        if run is None or run.start_id != handle.start_id:
            raise NotRunning(f"machine {handle.machine_id} does not run here")
        return run

    async def wait(self, handle: Handle) -> ExitStatus:
        run = self._runs.get(handle.machine_id)
        if run is not None and run.start_id == handle.start_id:
            return await run.wait()
        return self._recorded_exit(handle)

    def _recorded_exit(self, handle: Handle) -> ExitStatus:
        """How a run ended that nobody has in hand, as its shim has it."""
        rundir = self._rundir(handle.machine_id)
        record = rundirs.read_record(rundir)
        if record is None or record.start_id != handle.start_id:
            raise NotRunning(f"machine {handle.machine_id} does not run here")
        found = shim_files.read_state(rundir)
        return with_oom(exit_status(found.exit, found.ended), self._groups.get(handle.machine_id))

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
        marker = self._rundir(handle.machine_id) / SUSPENDED_NAME
        # Before freezing: a worker that dies in between must not wait for the answer of a frozen init.
        marker.write_text(run.start_id)
        try:
            await run.cgroup.freeze()
        except BaseException:
            marker.unlink()
            raise
        return {"start_id": run.start_id}

    async def resume(self, spec: MachineSpec, snapshot: dict[str, Any], trace: Trace) -> Handle:
        machine_id = spec.machine_id
        rundir = self._rundir(machine_id)
        record, suspended = rundirs.read_record(rundir), self._suspended(machine_id)
        if record is None or (suspended or record.start_id) not in (snapshot.get("start_id"), spec.start_id):
            raise SnapshotUnusable(f"machine {machine_id} is not frozen here", hint="was the host restarted?")
        if not shim_files.read_state(rundir).shim_alive:
            raise SnapshotUnusable(f"machine {machine_id} has ended while it was frozen")
        self._groups.thaw(machine_id)
        trace.mark("thaw")
        record = RunRecord(start_id=spec.start_id, slot=record.slot)
        run = self._runs.get(machine_id)
        if run is not None and run.instance.channel.guest is not None:
            self._runs[machine_id] = Run(spec.start_id, run.slot, run.instance, run.cgroup)
        elif await self._take_over(machine_id, record, greet=True) is None:
            raise SnapshotUnusable(f"machine {machine_id} does not answer after it was thawed")
        rundirs.write_record(rundir, record)
        (rundir / SUSPENDED_NAME).unlink(missing_ok=True)
        trace.mark("guest")
        return self._handle(spec)

    async def discard_snapshot(self, machine_id: str, snapshot: dict[str, Any]) -> None:
        """The snapshot is the frozen machine itself."""
        if self._suspended(machine_id):
            await self._clear(machine_id)

    def _suspended(self, machine_id: str) -> str:
        """The start_id of the run that is frozen, or empty."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self._rundir(machine_id) / SUSPENDED_NAME).read_text()
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
        rundir = self._rundir(machine_id)
        record = rundirs.read_record(rundir)
        run = self._runs.get(machine_id)
        if run is None and record is not None and shim_files.read_state(rundir).shim_alive:
            # The shim knows what it has launched, also while the runtime has not said so yet.
            run = await self._take_over(machine_id, record, greet=False)
        if run is not None:
            del self._runs[machine_id]
            run.leave()
            await run.end(END_GRACE_S)
        # In this order: what is frozen dies only when its group is thawed.
        await self._groups.remove(machine_id)
        await asyncio.to_thread(kill_leftover, rundir)
        if record is not None and record.slot:
            with suppress(NotFound):
                await self._net.give_back(await self._net.adopt(record.slot))
        await asyncio.to_thread(_remove_run, rundir, self._layers(machine_id))

    async def destroy(self, machine_id: str) -> None:
        await self._clear(machine_id)
        await asyncio.to_thread(shutil.rmtree, self._layers(machine_id).folder, ignore_errors=True)

    async def recover(self, handle: Handle) -> Recovered:
        machine_id = handle.machine_id
        rundir = self._rundir(machine_id)
        record = rundirs.read_record(rundir)
        if record is None or record.start_id != handle.start_id:
            return Lost(reason="its run directory is gone, as after a restart of the host")
        found = shim_files.read_state(rundir)
        if found.exit is None and found.ended is None and found.shim_alive:
            run = await self._take_over(machine_id, record, greet=not self._suspended(machine_id))
            if run is not None:
                return Running(handle=handle)
        return Exited(status=self._recorded_exit(handle))

    async def sweep(self, known: set[str]) -> list[str]:
        folders = (self._settings.rundir, self._settings.machines)
        strays = {entry.name for folder in folders for entry in folder.iterdir()} - known
        for machine_id in strays:
            await self.destroy(machine_id)
        records = (rundirs.read_record(rundir) for rundir in self._settings.rundir.iterdir())
        claimed = {record.slot for record in records if record is not None}
        slots = await self._net.sweep(claimed)
        return [*sorted(strays), *slots, *await self._groups.sweep(known)]

    def _handle(self, spec: MachineSpec) -> Handle:
        return Handle(driver=self.name, machine_id=spec.machine_id, start_id=spec.start_id)

    def _rundir(self, machine_id: str) -> Path:
        return self._settings.rundir / machine_id

    def _layers(self, machine_id: str) -> Layers:
        return Layers(self._settings.machines / machine_id)


def _make_folders(rundir: Path, layers: Layers, lower: list[Path], *, persist: bool) -> None:
    rundirs.fresh(rundir)
    layers.make(lower, persist=persist)


def _remove_run(rundir: Path, layers: Layers) -> None:
    overlay.unmount(rundir / ROOT_NAME)
    shutil.rmtree(rundir, ignore_errors=True)
    layers.clear()
