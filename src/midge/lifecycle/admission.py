"""May this request happen? A chain of pure gates, asked before any transition.

token (in the api) → lease → the driver's abilities → state table → capacity → the machine's own rules. The first gate
that objects raises; the last one that has an opinion decides. Each gate is a function of facts, so that a refusal can
be explained and replayed.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from midge.clock import rfc3339
from midge.errors import Conflict, LeaseHeld, NotSupported
from midge.lifecycle.states import Request, State
from midge.lifecycle.table import Decision, Next, decide


@dataclass(frozen=True, slots=True)
class Lease:
    """`expires_at_ns` of wall clock; a lease that has expired is no lease."""

    nonce: str
    owner: str
    expires_at_ns: int
    description: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the host has left, MiB; None where the driver needs none (mock)."""

    free_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the gates may look at.

    Attributes:
        memory_mb: what the machine uses, or would use if it ran.
        suspends: whether the machine's driver can suspend one.
        new_memory_mb: what it is to run with after an update; 0: no update, or one that does not launch.
    """

    machine_id: str
    state: State
    request: Request
    now_ns: int
    nonce: str = ""
    lease: Lease | None = None
    memory_mb: int = 0
    new_memory_mb: int = 0
    capacity: Capacity = Capacity()
    suspends: bool = True
    story: Sequence[str] = field(default_factory=tuple)


Gate = Callable[[Facts], Decision | None]


def live_lease(lease: Lease | None, now_ns: int) -> Lease | None:
    return lease if lease is not None and lease.expires_at_ns > now_ns else None


def lease_gate(facts: Facts) -> None:
    """Whoever holds no valid nonce cannot change a leased machine."""
    check_lease(facts.machine_id, facts.lease, facts.nonce, facts.now_ns)


def check_lease(machine_id: str, lease: Lease | None, nonce: str, now_ns: int) -> None:
    held = live_lease(lease, now_ns)
    if held is None or hmac.compare_digest(held.nonce.encode(), nonce.encode()):
        return
    raise LeaseHeld(
        f"machine ID {machine_id} lease currently held by {held.owner}, expires at {rfc3339(held.expires_at_ns)}",
        hint="send the lease's nonce in fly-machine-lease-nonce, or wait until it expires",
    )


def ability_gate(facts: Facts) -> None:
    """What the driver cannot do does not begin: nothing is written, and the machine runs on."""
    if facts.request == "suspend" and not facts.suspends:
        raise NotSupported(
            f"machine {facts.machine_id} cannot be suspended: the driver of its host suspends no machines",
            hint="stop it",
        )


def table_gate(facts: Facts) -> Decision:
    return decide(facts.state, facts.request, facts.story)


def capacity_gate(facts: Facts) -> None:
    """A start needs memory, and so does an update to more of it; everything else was paid for already."""
    if facts.capacity.free_mb is None:
        return
    free_mb, needed_mb = max(facts.capacity.free_mb, 0), _more_memory_mb(facts)
    if needed_mb > free_mb:
        raise Conflict(
            "aborted: could not reserve resource for machine: insufficient memory available to fulfill request "
            "on the current host",
            hint=f"it needs {needed_mb} MB, {free_mb} MB are free: stop other machines",
        )


def _more_memory_mb(facts: Facts) -> int:
    """What the request would have counted beside what the machine has already; not positive: nothing."""
    if facts.request == "update":
        return facts.new_memory_mb - facts.memory_mb if facts.state == "started" else 0
    if facts.request not in ("start", "restart"):
        return 0
    # Its memory is counted already where it runs, and where it is only about to be suspended.
    starts = facts.state not in ("started", "suspending")
    return (
        facts.memory_mb if starts and isinstance(decide(facts.state, facts.request, facts.story), Next) else 0
    )


def rules_gate(facts: Facts) -> None:
    """The machine's own rules. None can be given yet; the gate has its place so that a wake can be refused here."""


GATES: tuple[Gate, ...] = (lease_gate, ability_gate, table_gate, capacity_gate, rules_gate)


def admit(facts: Facts, gates: Sequence[Gate] = GATES) -> Decision:
    """Asks every gate in order and returns the decision of the state table.

    Raises:
        LeaseHeld, NotSupported, PreconditionFailed, Conflict: the first objection.
    """
    decision: Decision | None = None
    for gate in gates:
        decision = gate(facts) or decision
    if decision is None:
        raise ValueError("a chain of gates needs one that decides")
    return decision
