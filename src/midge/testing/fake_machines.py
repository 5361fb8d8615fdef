"""Machines in memory, and what happens to them when nothing runs behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import msgspec

from midge.clock import rfc3339_ms
from midge.errors import DeadlineExceeded, NotFound
from midge.ids import new_nonce, new_ulid
from midge.lifecycle.admission import Lease, check_lease, live_lease
from midge.lifecycle.states import PERSISTENT
from midge.worker.host import EventView, LeaseView, MachineView, WaitResult
from midge.worker.trace import Traced, Traces

EVENTS_KEPT_MAX = 100  # of one machine
_DEAD_ENDS = frozenset({"destroyed", "failed"})


@dataclass(slots=True)
class FakeMachine:
    view: MachineView
    events: list[EventView] = field(default_factory=list)
    versions: list[tuple[str, msgspec.Raw]] = field(default_factory=list)
    lease: Lease | None = None
    starts: list[dict[str, Any]] = field(default_factory=list)


class FakeMachines:
    """The table of machines and their transitions.

    Attributes:
        held: transitions wait in `pending` for `release` instead of ending at the next turn of the loop.
    """

    def __init__(self) -> None:
        self.held = False
        self.pending: list[Callable[[], None]] = []
        self.traces = Traces()
        self._machines: dict[str, FakeMachine] = {}
        self._changed = asyncio.Event()
        self._seq = 0

    def release(self) -> None:
        """Ends every transition that is held."""
        pending, self.pending = self.pending, []
        for end in pending:
            end()

    def add(self, machine: FakeMachine) -> None:
        self._machines[machine.view.id] = machine

    def __contains__(self, machine_id: str) -> bool:
        return machine_id in self._machines

    def get(self, machine_id: str) -> FakeMachine:
        """Raises NotFound."""
        machine = self._machines.get(machine_id)
        if machine is None:
            raise NotFound("machine not found")
        return machine

    def forget(self, machine_id: str) -> None:
        """As if the host had never heard of it."""
        del self._machines[machine_id]

    def unlocked(self, machine_id: str, nonce: str) -> FakeMachine:
        """Raises NotFound, LeaseHeld."""
        machine = self.get(machine_id)
        check_lease(machine_id, machine.lease, nonce, time.time_ns())
        return machine

    def views(self, wanted: Callable[[MachineView], bool]) -> list[MachineView]:
        return sorted((m.view for m in self._machines.values() if wanted(m.view)), key=lambda view: view.id)

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def set(self, machine: FakeMachine, **changes: Any) -> None:
        """Publishes the machine with these members changed."""
        changes = {"updated_at_ns": time.time_ns(), "seq": self.next_seq(), **changes}
        machine.view = msgspec.structs.replace(machine.view, **changes)
        self._changed.set()
        self._changed = asyncio.Event()

    def event(self, machine: FakeMachine, kind: str, status: str, source: str, request: Any = None) -> None:
        machine.events.insert(
            0,
            EventView(
                id=new_ulid(),
                type=kind,
                status=status,
                source=source,
                timestamp=time.time_ns() // 1_000_000,
                request=request,
            ),
        )
        del machine.events[EVENTS_KEPT_MAX:]

    def after(self, machine: FakeMachine, end: Callable[[], None]) -> None:
        """Runs `end` when the transition is over, unless the machine has been destroyed meanwhile."""

        def guarded() -> None:
            if machine.view.state != "destroyed":
                end()

        if self.held:
            self.pending.append(guarded)
        else:
            asyncio.get_running_loop().call_soon(guarded)

    def begin_start(self, machine: FakeMachine, source: str) -> None:
        kind = "resume" if machine.view.state == "suspended" else "start"
        self.set(machine, state="starting")
        self.event(machine, "start", "starting", source)

        def end() -> None:
            phases = [("journal", 1.0), ("restore", 3.0), ("exec", 14.0)]
            machine.starts.insert(
                0, {"start_id": new_ulid(), "kind": kind, "phases": [list(phase) for phase in phases]}
            )
            self.traces.add(Traced(kind, ok=True, total_ms=15.0, phases=phases))
            self.settle(machine, "start", "started")

        self.after(machine, end)

    def settle(self, machine: FakeMachine, kind: str, state: str) -> None:
        self.event(machine, kind, state, "flyd")
        self.set(machine, state=state)

    def exited(self, machine: FakeMachine, code: int, *, requested: bool) -> None:
        exit_event = {
            "exit_code": code,
            "guest_exit_code": code,
            "guest_signal": -1,
            "signal": -1,
            "oom_killed": False,
            "requested_stop": requested,
            "restarting": False,
            "guest_error": "",
            "error": "",
            "exited_at": rfc3339_ms(time.time_ns()),
        }
        self.event(machine, "exit", "stopped", "flyd", {"exit_event": exit_event, "restart_count": 0})
        self.set(machine, state="stopped")

    def grant(self, machine: FakeMachine, ttl_s: int, owner: str, description: str, nonce: str) -> LeaseView:
        """Takes the lease, or extends the one that `nonce` belongs to."""
        now_ns = time.time_ns()
        held = live_lease(machine.lease, now_ns)
        machine.lease = Lease(
            nonce=held.nonce if held is not None else new_nonce(),
            owner=owner,
            expires_at_ns=now_ns + ttl_s * 1_000_000_000,
            description=description,
        )
        view = LeaseView(
            nonce=machine.lease.nonce,
            owner=owner,
            expires_at=machine.lease.expires_at_ns // 1_000_000_000,
            description=description,
            version=machine.view.version,
        )
        self.set(machine, lease=view)
        return view

    async def wait(
        self, machine_id: str, states: Collection[str], timeout_s: float, version: str, from_event_id: str
    ) -> WaitResult:
        """Raises NotFound, DeadlineExceeded."""
        machine = self.get(machine_id)
        wanted = set(states) | (PERSISTENT | {"destroyed"} if "settled" in states else set())

        def reached() -> bool:
            view = machine.view
            newest = machine.events[0].id if machine.events else ""
            return (
                view.state in wanted and (not version or view.version == version) and newest > from_event_id
            )

        try:
            async with asyncio.timeout(timeout_s):
                while not reached():
                    changed = self._changed
                    if machine.view.state in _DEAD_ENDS:
                        raise TimeoutError
                    await changed.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                "deadline_exceeded: machine failed to reach desired state, "
                f"{', '.join(sorted(states))}, currently {machine.view.state}"
            ) from error
        newest = machine.events[0].id if machine.events else ""
        return WaitResult(state=machine.view.state, version=machine.view.version, event_id=newest)
