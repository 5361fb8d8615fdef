"""The worker's machines as others see them: whole objects, published in order, and those who wait for one."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address

from midge.clock import Clock
from midge.errors import DeadlineExceeded, NotFound, Unavailable
from midge.lifecycle.states import PERSISTENT, TERMINAL
from midge.worker.host import MachineView, WaitResult
from midge.worker.record import Machine

WAITERS_MAX = 50_000  # of all machines together

# States whose memory is spoken for.
_OCCUPIED = frozenset({"starting", "started", "stopping", "suspending", "restarting", "replacing"})
SETTLED = PERSISTENT | TERMINAL


class _Waiter:
    __slots__ = ("future", "states", "version")

    def __init__(self, states: frozenset[str], version: str, future: asyncio.Future[WaitResult]) -> None:
        self.states = states
        self.version = version
        self.future = future


def expand(states: Collection[str]) -> frozenset[str]:
    """``settled`` as the states it stands for."""
    wanted = set(states)
    if "settled" in wanted:
        wanted.discard("settled")
        wanted |= SETTLED
    return frozenset(wanted)


class Catalog:
    """All machines of this host, by id. Written through `publish` alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._machines: dict[str, Machine] = {}
        self._waiters: dict[str, list[_Waiter]] = {}
        self._waiting = 0
        self._ids: list[str] | None = None  # sorted; None when machines came or went
        self.by_state: Counter[str] = Counter()
        self.reserved_mb = 0
        self.addresses: set[IPv4Address] = set()

    def __len__(self) -> int:
        return len(self._machines)

    def __iter__(self) -> Iterator[Machine]:
        return iter(self._machines.values())

    def __contains__(self, machine_id: str) -> bool:
        return machine_id in self._machines

    def get(self, machine_id: str) -> Machine:
        machine = self._machines.get(machine_id)
        if machine is None:
            raise NotFound(
                "machine not found", hint="list the app's machines to see which exist", id=machine_id
            )
        return machine

    def publish(self, machine: Machine, event_id: str = "") -> None:
        """Replaces what is known of a machine and wakes who waits for its new state."""
        before = self._machines.get(machine.id)
        if before is None:
            self._ids = None
        self._account(before, -1)
        self._machines[machine.id] = machine
        self._account(machine, +1)
        self._address(before.ipv4 if before else "", machine.ipv4)
        waiters = self._waiters.get(machine.id)
        if not waiters:
            return
        left = []
        for waiter in waiters:
            if waiter.future.done():
                continue
            if machine.state in waiter.states and waiter.version in ("", machine.version):
                result = WaitResult(state=machine.state, version=machine.version, event_id=event_id)
                waiter.future.set_result(result)
            elif _hopeless(machine, waiter) or _undone(before, machine, waiter):
                waiter.future.set_exception(_missed(machine, waiter.states, waiter.version))
            else:
                left.append(waiter)
        if left:
            self._waiters[machine.id] = left
        else:
            del self._waiters[machine.id]

    def forget(self, machine_id: str) -> None:
        before = self._machines.pop(machine_id, None)
        self._account(before, -1)
        self._address(before.ipv4 if before else "", "")
        self._ids = None
        for waiter in self._waiters.pop(machine_id, ()):
            if not waiter.future.done():
                waiter.future.set_exception(NotFound("machine not found", id=machine_id))

    def _account(self, machine: Machine | None, sign: int) -> None:
        if machine is None:
            return
        self.by_state[machine.state] += sign
        if machine.state in _OCCUPIED:
            self.reserved_mb += sign * machine.memory_mb

    def _address(self, before: str, after: str) -> None:
        if before == after:
            return
        if before:
            self.addresses.discard(IPv4Address(before))
        if after:
            self.addresses.add(IPv4Address(after))

    def views(self, machines: Collection[Machine]) -> list[MachineView]:
        now_ns = self._clock.now_ns()
        return [machine.view(now_ns) for machine in machines]

    def select(
        self,
        *,
        app: str | None = None,
        states: Collection[str] = (),
        region: str | None = None,
        metadata: dict[str, str] | None = None,
        include_deleted: bool = False,
        after_id: str = "",
        limit: int | None = None,
    ) -> list[Machine]:
        """Machines that match, by id, at most `limit` of those after `after_id`."""
        found: list[Machine] = []
        ids = self._sorted_ids()
        for index in range(bisect_right(ids, after_id), len(ids)):
            machine = self._machines[ids[index]]
            if app is not None and machine.app != app:
                continue
            if machine.state == "destroyed" and not include_deleted and "destroyed" not in states:
                continue
            if (states and machine.state not in states) or (region and machine.region != region):
                continue
            if metadata and not _has_metadata(machine, metadata):
                continue
            found.append(machine)
            if limit is not None and len(found) >= limit:
                break
        return found

    def _sorted_ids(self) -> list[str]:
        if self._ids is None:
            self._ids = sorted(self._machines)
        return self._ids

    async def wait(
        self, machine_id: str, states: Collection[str], version: str, timeout_s: float
    ) -> WaitResult:
        """Returns when the machine is in one of `states`; states it only passes through count.

        Raises:
            DeadlineExceeded: not in time, or it cannot happen any more.
        """
        machine = self.get(machine_id)
        wanted = expand(states)
        if machine.state in wanted and version in ("", machine.version):
            return WaitResult(state=machine.state, version=machine.version, event_id="")
        return await self.wait_next(machine_id, states, version, timeout_s)

    async def wait_next(
        self, machine_id: str, states: Collection[str], version: str, timeout_s: float
    ) -> WaitResult:
        """As `wait`, but where the machine is now does not count."""
        machine, wanted = self.get(machine_id), expand(states)
        waiter = _Waiter(wanted, version, asyncio.get_running_loop().create_future())
        if _hopeless(machine, waiter):
            raise _missed(machine, wanted, version)
        if self._waiting >= WAITERS_MAX:
            raise Unavailable(f"more than {WAITERS_MAX} requests wait for machines", hint="try again later")
        self._waiters.setdefault(machine_id, []).append(waiter)
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter.future
        except TimeoutError:
            raise _missed(self.get(machine_id), wanted, version) from None
        finally:
            self._waiting -= 1
            left = [other for other in self._waiters.get(machine_id, ()) if other is not waiter]
            if left:
                self._waiters[machine_id] = left
            else:
                self._waiters.pop(machine_id, None)


def _has_metadata(machine: Machine, wanted: dict[str, str]) -> bool:
    have = machine.config.metadata or {}
    return all(have.get(key) == value for key, value in wanted.items())


def _hopeless(machine: Machine, waiter: _Waiter) -> bool:
    """The wanted state cannot come any more: the machine is gone, or has another version for good."""
    if machine.state in TERMINAL:
        return True
    if machine.state == "failed" and "failed" not in waiter.states:
        return True
    return waiter.version != "" and waiter.version < machine.version


def _undone(before: Machine | None, machine: Machine, waiter: _Waiter) -> bool:
    """The update to the awaited version failed, and the machine has gone back to the one before."""
    return before is not None and before.version == waiter.version and machine.version < waiter.version


def _missed(machine: Machine, states: Collection[str], version: str) -> DeadlineExceeded:
    current = "replaced" if version and version < machine.version else machine.state
    return DeadlineExceeded(
        f"deadline_exceeded: machine failed to reach desired state, {', '.join(sorted(states))}, currently {current}",
        hint=f"GET the machine's events to see why it is {current}",
        state=current,
    )
