"""`midge.worker.host.Host` on the worker of this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import msgspec

from midge.drivers.base import ExecRequest, ExecSession, Handle
from midge.errors import NotRunning, NotSupported, PreconditionFailed
from midge.guest.errors import ChannelLost
from midge.lifecycle.admission import live_lease
from midge.logs.reader import LogReader
from midge.worker import table
from midge.worker.arrivals import first_arrival
from midge.worker.catalog import expand
from midge.worker.edits import AcquireLease, ReleaseLease, SetCordon, SetMetadata
from midge.worker.host import (
    CreateMachine,
    EventView,
    HostStatus,
    LeaseView,
    MachineView,
    UpdateMachine,
    WaitResult,
)
from midge.worker.operations.journal import was_resumed
from midge.worker.record import lease_view
from midge.worker.trace import Traced
from midge.worker.worker import Worker

ANSWER_AFTER_S = 5.0  # a start that takes longer is answered before it has ended
EVENTS_ANSWERED_MAX = 50  # the Machines API's limit


class LocalHost:
    """See `midge.worker.host.Host` for what the methods promise."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._parts = worker.parts

    # ── lifecycle ─────────────────────────────────────────────────────────────────────────────────────────────

    async def create(self, request: CreateMachine) -> MachineView:
        return await self._worker.create(request)

    async def update(self, machine_id: str, request: UpdateMachine, *, nonce: str = "") -> MachineView:
        return await self._worker.update(machine_id, request, nonce=nonce)

    async def start(self, machine_id: str, *, nonce: str = "", source: str = "user") -> str:
        accepted = await self._worker.ask(machine_id, "start", {"source": source}, nonce=nonce)
        if accepted.done is not None:
            await asyncio.wait([accepted.done], timeout=ANSWER_AFTER_S)
            if accepted.done.done():
                accepted.done.result()
        return accepted.previous

    async def stop(
        self,
        machine_id: str,
        *,
        signal: str | None = None,
        timeout_s: float | None = None,
        nonce: str = "",
        source: str = "user",
    ) -> None:
        params = {"signal": signal, "timeout_s": timeout_s, "source": source}
        await self._worker.ask(machine_id, "stop", params, nonce=nonce)

    async def restart(
        self,
        machine_id: str,
        *,
        signal: str | None = None,
        timeout_s: float | None = None,
        force: bool = False,
        nonce: str = "",
    ) -> None:
        params = {"signal": signal, "timeout_s": timeout_s, "force": force}
        await self._worker.ask(machine_id, "restart", params, nonce=nonce)

    async def suspend(self, machine_id: str, *, nonce: str = "", source: str = "user") -> None:
        await self._worker.ask(machine_id, "suspend", {"source": source}, nonce=nonce)

    async def destroy(self, machine_id: str, *, force: bool = False, nonce: str = "") -> None:
        await self._worker.ask(machine_id, "force_destroy" if force else "destroy", {}, nonce=nonce)

    # ── changes of the record ─────────────────────────────────────────────────────────────────────────────────

    async def cordon(self, machine_id: str, cordoned: bool, *, nonce: str = "") -> None:
        await self._worker.call(machine_id, SetCordon(cordoned, nonce))

    async def set_metadata(
        self, machine_id: str, changes: dict[str, str | None], *, machine_version: str = ""
    ) -> None:
        await self._worker.call(machine_id, SetMetadata(changes, machine_version))

    async def acquire_lease(
        self, machine_id: str, *, ttl_s: int, owner: str, description: str = "", nonce: str = ""
    ) -> LeaseView:
        machine = await self._worker.call(machine_id, AcquireLease(ttl_s, owner, description, nonce))
        assert machine.lease is not None, "it has just been acquired"
        return lease_view(machine.lease, machine.version)

    async def release_lease(self, machine_id: str, *, nonce: str) -> None:
        await self._worker.call(machine_id, ReleaseLease(nonce))

    def get_lease(self, machine_id: str) -> LeaseView | None:
        machine = self._parts.catalog.get(machine_id)
        lease = live_lease(machine.lease, self._parts.clock.now_ns())
        return lease_view(lease, machine.version) if lease else None

    # ── reads ─────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, machine_id: str) -> MachineView:
        return self._parts.catalog.get(machine_id).view(self._parts.clock.now_ns())

    def list(
        self,
        *,
        app: str | None = None,
        states: Collection[str] = (),
        region: str | None = None,
        metadata: dict[str, str] | None = None,
        include_deleted: bool = False,
        after_id: str = "",
        limit: int | None = None,
    ) -> list[MachineView]:
        return self._parts.catalog.views(
            self._parts.catalog.select(
                app=app,
                states=states,
                region=region,
                metadata=metadata,
                include_deleted=include_deleted,
                after_id=after_id,
                limit=limit,
            )
        )

    def events(self, machine_id: str, limit: int) -> Sequence[EventView]:
        self._parts.catalog.get(machine_id)
        return table.read_events(self._parts.database, machine_id, min(limit, EVENTS_ANSWERED_MAX))

    def phases(self, machine_id: str, limit: int) -> Sequence[dict[str, Any]]:
        self._parts.catalog.get(machine_id)
        return [
            {
                "start_id": run.id,
                "kind": run.kind,
                "state": run.state,
                "phases": run.phases,
                "started_at_ns": run.started_at_ns,
                "resumed": was_resumed(run),
                "error": (run.error or {}).get("message", ""),
            }
            for run in table.read_runs(self._parts.database, machine_id, limit)
        ]

    def versions(self, machine_id: str) -> Sequence[tuple[str, msgspec.Raw]]:
        self._parts.catalog.get(machine_id)
        found = table.read_versions(self._parts.database, machine_id)
        return [(version, msgspec.Raw(config)) for version, config in found]

    async def wait(
        self,
        machine_id: str,
        *,
        states: Collection[str],
        timeout_s: float,
        version: str = "",
        from_event_id: str = "",
    ) -> WaitResult:
        catalog = self._parts.catalog
        if not from_event_id:
            return await catalog.wait(machine_id, states, version, timeout_s)
        machine = catalog.get(machine_id)
        moments = table.read_moments(self._parts.database, machine_id, from_event_id)
        found = first_arrival(moments, machine, from_event_id, expand(states), version)
        return found or await catalog.wait_next(machine_id, states, version, timeout_s)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────

    def _running(self, machine_id: str, what: str) -> Handle:
        machine = self._parts.catalog.get(machine_id)
        if machine.handle is None or machine.state not in ("started", "stopping"):
            raise PreconditionFailed(
                f"failed_precondition: unable to {what}, machine is not running (state: {machine.state})",
                hint="start the machine first",
                state=machine.state,
            )
        return machine.handle

    async def signal(self, machine_id: str, signum: int) -> None:
        handle = self._running(machine_id, "signal")
        with self._while_running(machine_id, "signal"):
            await self._parts.driver.signal(handle, signum)

    def exec(self, machine_id: str, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        handle = self._running(machine_id, "exec")
        if not self._parts.driver.capabilities.exec:
            raise NotSupported(f"the {self._parts.driver.name} driver runs no commands")
        return self._exec(machine_id, handle, request)

    @asynccontextmanager
    async def _exec(
        self, machine_id: str, handle: Handle, request: ExecRequest
    ) -> AsyncIterator[ExecSession]:
        with self._while_running(machine_id, "exec"):
            async with self._parts.driver.exec(handle, request) as session:
                yield session

    async def ps(self, machine_id: str) -> Sequence[dict[str, Any]]:
        handle = self._running(machine_id, "list processes")
        with self._while_running(machine_id, "list processes"):
            return await self._parts.driver.ps(handle)

    async def stats(self, machine_id: str) -> dict[str, Any]:
        handle = self._running(machine_id, "read statistics")
        with self._while_running(machine_id, "read statistics"):
            return await self._parts.driver.stats(handle)

    @contextmanager
    def _while_running(self, machine_id: str, what: str) -> Iterator[None]:
        """A guest that stops talking was suspended or has ended: the caller wants to know the machine's state."""
        try:
            yield
        except (ChannelLost, NotRunning) as error:
            state = self._parts.catalog.get(machine_id).state
            raise PreconditionFailed(
                f"failed_precondition: unable to {what}, machine has stopped running meanwhile (state: {state})",
                hint="start the machine, and ask again",
                state=state,
            ) from error

    def logs(self, machine_id: str) -> LogReader:
        self._parts.catalog.get(machine_id)
        return LogReader(self._parts.log_path(machine_id))

    def address(self, machine_id: str) -> str:
        self._running(machine_id, "connect")
        return self._parts.catalog.get(machine_id).ipv4

    # ── the host ──────────────────────────────────────────────────────────────────────────────────────────────

    def images_in_use(self) -> set[str]:
        return {m.image_ref.digest for m in self._parts.catalog if m.state != "destroyed"}

    def take_traces(self) -> Sequence[Traced]:
        return self._parts.traces.take()

    def status(self) -> HostStatus:
        settings, catalog = self._parts.settings, self._parts.catalog
        return HostStatus(
            name=settings.host_name,
            region=settings.region,
            driver=self._parts.driver.name,
            ready=self._worker.ready.is_set(),
            reason="" if self._worker.ready.is_set() else "recovering machines",
            machines={state: count for state, count in catalog.by_state.items() if count},
            memory_total_mb=settings.memory_total_mb or 0,
            memory_reserved_mb=catalog.reserved_mb,
            cpus=os.cpu_count() or 1,
            kernel=self._parts.driver.capabilities.kernel,
            kept=self._parts.driver.statistics() if self._worker.ready.is_set() else {},
        )
