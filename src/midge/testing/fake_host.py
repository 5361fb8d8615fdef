"""A host that keeps machines in memory: the same answers as a worker, nothing behind them.

States, refusals and configurations come from the worker's own tables (`midge.lifecycle`, `midge.machine.normalise`);
operations end at the next turn of the loop. For tests of the api and of clients.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec

from midge.drivers.base import ExecRequest, ExecSession
from midge.errors import Conflict, NotFound, PreconditionFailed
from midge.ids import new_ulid
from midge.images.reference import parse
from midge.lifecycle.admission import check_lease, live_lease
from midge.lifecycle.states import Request, State
from midge.lifecycle.table import Next, Nothing, decide
from midge.logs.reader import LogReader
from midge.logs.record import LogRecord, StreamName, format_record
from midge.machine.normalise import normalise
from midge.testing.fake_exec import FakeSession
from midge.testing.fake_machines import FakeMachine, FakeMachines
from midge.worker.host import (
    CreateMachine,
    EventView,
    HostStatus,
    ImageRefView,
    LeaseView,
    MachineView,
    UpdateMachine,
    WaitResult,
)
from midge.worker.trace import Traced


class FakeHost:
    """See `midge.worker.host.Host`.

    Attributes:
        sessions: every exec session, for tests to look at.
        logs_dir: where `print` writes and `logs` reads; a temporary directory if none is given.
        fail_next: raised by the next create, update or start.
        machines: the table behind it; set `machines.held` to keep transitions from ending.
    """

    def __init__(self, *, name: str = "fake", region: str = "local", logs_dir: Path | None = None) -> None:
        self.name = name
        self.region = region
        self.sessions: list[FakeSession] = []
        self._logs_dir = logs_dir
        self._last_log_ns = 0
        self.fail_next: Exception | None = None
        self.ready = True
        self.machines = FakeMachines()

    # ── what tests do ─────────────────────────────────────────────────────────────────────────────────────────

    def exit(self, machine_id: str, code: int) -> None:
        """The machine's process ends by itself; no restart policy is applied."""
        machine = self.machines.get(machine_id)
        self.machines.exited(machine, code, requested=False)

    def print(
        self, machine_id: str, data: bytes, stream: StreamName = "stdout", *, complete: bool = True
    ) -> None:
        """The machine prints a line, or a piece of one."""
        path = self._log_path(machine_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._last_log_ns = max(time.time_ns(), self._last_log_ns + 1)
        record = LogRecord(self._last_log_ns, stream, data, complete)
        with path.open("ab") as file:
            file.write(format_record(record))

    def _log_path(self, machine_id: str) -> Path:
        if self._logs_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="midge-fake-")
            self._logs_dir = Path(self._temporary.name)
        return self._logs_dir / machine_id / "output.log"

    # ── lifecycle ─────────────────────────────────────────────────────────────────────────────────────────────

    async def create(self, request: CreateMachine) -> MachineView:
        self._maybe_fail()
        if request.id in self.machines:
            raise Conflict(f"machine {request.id} exists")
        config, config_json = normalise(request.config, request.config_json)
        now, version = time.time_ns(), new_ulid()
        reference = parse(config.image or "")
        view = MachineView(
            id=request.id,
            app=request.app,
            name=request.name,
            region=request.region,
            state="created",
            version=version,
            config=msgspec.Raw(config_json),
            image_ref=ImageRefView(
                registry=reference.registry,
                repository=reference.repository,
                tag=reference.tag,
                digest=reference.digest or "sha256:" + "0" * 64,
            ),
            private_ip="fdaa:0:1::2",
            created_at_ns=now,
            updated_at_ns=now,
            cordoned=request.cordoned,
            seq=self.machines.next_seq(),
        )
        machine = FakeMachine(view, versions=[(version, view.config)])
        self.machines.add(machine)
        self.machines.event(machine, "launch", "created", "user")
        if request.lease_ttl_s:
            self.machines.grant(machine, request.lease_ttl_s, request.owner, "", "")
        answer = machine.view
        if not request.skip_launch:
            self.machines.after(machine, lambda: self.machines.begin_start(machine, "flyd"))
        return answer

    async def update(self, machine_id: str, request: UpdateMachine, *, nonce: str = "") -> MachineView:
        machine = self.machines.unlocked(machine_id, nonce)
        self._maybe_fail()
        if request.current_version and request.current_version != machine.view.version:
            raise Conflict(f"aborted: the current version is {machine.view.version}")
        before = machine.view.state
        decide(cast(State, before), "update")
        _, config_json = normalise(request.config, request.config_json)
        version = new_ulid()
        raw = msgspec.Raw(config_json)
        machine.versions.insert(0, (version, raw))
        self.machines.set(machine, state="replacing", version=version, config=raw)
        self.machines.event(machine, "update", "replacing", "user")
        if request.lease_ttl_s:
            self.machines.grant(machine, request.lease_ttl_s, request.owner, "", nonce)
        answer = machine.view

        def end() -> None:
            if before == "started" and not request.skip_launch:
                self.machines.begin_start(machine, "flyd")
            else:
                self.machines.set(machine, state="created" if before == "created" else "stopped")

        self.machines.after(machine, end)
        return answer

    async def start(self, machine_id: str, *, nonce: str = "", source: str = "user") -> str:
        machine = self.machines.unlocked(machine_id, nonce)
        self._maybe_fail()
        before = machine.view.state
        if isinstance(decide(cast(State, before), "start"), Next):
            self.machines.begin_start(machine, source)
        return before

    async def stop(
        self,
        machine_id: str,
        *,
        signal: str | None = None,
        timeout_s: float | None = None,
        nonce: str = "",
        source: str = "user",
    ) -> None:
        machine = self.machines.unlocked(machine_id, nonce)
        if isinstance(decide(cast(State, machine.view.state), "stop"), Next):
            self.machines.set(machine, state="stopping")
            self.machines.event(machine, "stop", "stopping", source)
            self.machines.after(machine, lambda: self.machines.exited(machine, 0, requested=True))

    async def restart(
        self,
        machine_id: str,
        *,
        signal: str | None = None,
        timeout_s: float | None = None,
        force: bool = False,
        nonce: str = "",
    ) -> None:
        machine = self.machines.unlocked(machine_id, nonce)
        if isinstance(decide(cast(State, machine.view.state), "restart"), Next):
            self.machines.event(machine, "restart", "stopping", "user")
            self.machines.begin_start(machine, "flyd")

    async def suspend(self, machine_id: str, *, nonce: str = "", source: str = "user") -> None:
        machine = self.machines.unlocked(machine_id, nonce)
        if isinstance(decide(cast(State, machine.view.state), "suspend"), Next):
            self.machines.set(machine, state="suspending")
            self.machines.event(machine, "suspend", "suspending", source)

            def end() -> None:
                if machine.view.state == "suspending":  # no start came in between, and kept it running
                    self.machines.settle(machine, "suspend", "suspended")

            self.machines.after(machine, end)

    async def destroy(self, machine_id: str, *, force: bool = False, nonce: str = "") -> None:
        machine = self.machines.unlocked(machine_id, nonce)
        request: Request = "force_destroy" if force else "destroy"
        if not isinstance(decide(cast(State, machine.view.state), request), Nothing):
            self.machines.set(machine, state="destroying")
            self.machines.event(machine, "destroy", "destroying", "user")
            self.machines.after(machine, lambda: self.machines.settle(machine, "destroy", "destroyed"))

    async def signal(self, machine_id: str, signum: int) -> None:
        self._started(machine_id)

    async def cordon(self, machine_id: str, cordoned: bool, *, nonce: str = "") -> None:
        machine = self.machines.unlocked(machine_id, nonce)
        self.machines.set(machine, cordoned=cordoned)
        self.machines.event(machine, "cordon" if cordoned else "uncordon", "", "user")

    async def set_metadata(
        self, machine_id: str, changes: dict[str, str | None], *, machine_version: str = ""
    ) -> None:
        machine = self.machines.get(machine_id)
        if machine_version and machine_version != machine.view.version:
            raise PreconditionFailed("failed_precondition: machine version mismatch")
        config: dict[str, Any] = msgspec.json.decode(machine.view.config)
        merged = {**(config.get("metadata") or {}), **changes}
        config["metadata"] = {key: value for key, value in merged.items() if value is not None}
        self.machines.set(machine, config=msgspec.Raw(msgspec.json.encode(config)))

    # ── leases ────────────────────────────────────────────────────────────────────────────────────────────────

    async def acquire_lease(
        self, machine_id: str, *, ttl_s: int, owner: str, description: str = "", nonce: str = ""
    ) -> LeaseView:
        machine = self.machines.unlocked(machine_id, nonce)
        return self.machines.grant(machine, ttl_s, owner, description, nonce)

    async def release_lease(self, machine_id: str, *, nonce: str) -> None:
        machine = self.machines.get(machine_id)
        if self.get_lease(machine_id) is None:
            raise NotFound("lease not found")
        check_lease(machine_id, machine.lease, nonce, time.time_ns())
        machine.lease = None
        self.machines.set(machine, lease=None)

    def get_lease(self, machine_id: str) -> LeaseView | None:
        machine = self.machines.get(machine_id)
        live = live_lease(machine.lease, time.time_ns())
        return None if live is None else machine.view.lease

    # ── reads ─────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, machine_id: str) -> MachineView:
        return self.machines.get(machine_id).view

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
        def wanted(view: MachineView) -> bool:
            return (
                (app is None or view.app == app)
                and (not states or view.state in states)
                and (region is None or view.region == region)
                and (include_deleted or view.state != "destroyed")
                and view.id > after_id
                and _has_metadata(view, metadata or {})
            )

        return self.machines.views(wanted)[:limit]

    def events(self, machine_id: str, limit: int) -> Sequence[EventView]:
        return self.machines.get(machine_id).events[:limit]

    def phases(self, machine_id: str, limit: int) -> Sequence[dict[str, Any]]:
        return self.machines.get(machine_id).starts[:limit]

    def take_traces(self) -> Sequence[Traced]:
        return self.machines.traces.take()

    def versions(self, machine_id: str) -> Sequence[tuple[str, msgspec.Raw]]:
        return self.machines.get(machine_id).versions

    async def wait(
        self,
        machine_id: str,
        *,
        states: Collection[str],
        timeout_s: float,
        version: str = "",
        from_event_id: str = "",
    ) -> WaitResult:
        return await self.machines.wait(machine_id, states, timeout_s, version, from_event_id)

    def exec(self, machine_id: str, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        @asynccontextmanager
        async def run() -> AsyncIterator[ExecSession]:
            self._started(machine_id)
            session = FakeSession(request)
            self.sessions.append(session)
            yield session

        return run()

    async def ps(self, machine_id: str) -> Sequence[dict[str, Any]]:
        self._started(machine_id)
        listening = [{"proto": "tcp", "address": "0.0.0.0:8080"}]
        return [{"pid": 1, "command": "/sbin/init", "rss": 4096, "listen_sockets": listening}]

    async def stats(self, machine_id: str) -> dict[str, Any]:
        self._started(machine_id)
        return {"memory_bytes": 41_000_000, "cpu_seconds": 0.25}

    def logs(self, machine_id: str) -> LogReader:
        self.machines.get(machine_id)
        return LogReader(self._log_path(machine_id))

    def address(self, machine_id: str) -> str:
        self._started(machine_id)
        return "127.0.0.1"

    def images_in_use(self) -> set[str]:
        return {view.image_ref.digest for view in self.list()}

    def status(self) -> HostStatus:
        return HostStatus(
            name=self.name,
            region=self.region,
            driver="fake",
            ready=self.ready,
            reason="" if self.ready else "told so by a test",
            machines=dict(Counter(view.state for view in self.list(include_deleted=True))),
            memory_total_mb=4096,
            memory_reserved_mb=0,
            cpus=2,
        )

    def _started(self, machine_id: str) -> None:
        state = self.machines.get(machine_id).view.state
        if state != "started":
            raise PreconditionFailed(f"failed_precondition: machine is not started, currently {state}")

    def _maybe_fail(self) -> None:
        error, self.fail_next = self.fail_next, None
        if error is not None:
            raise error


def _has_metadata(view: MachineView, wanted: dict[str, str]) -> bool:
    if not wanted:
        return True
    have = msgspec.json.decode(view.config).get("metadata") or {}
    return all(have.get(key) == value for key, value in wanted.items())
