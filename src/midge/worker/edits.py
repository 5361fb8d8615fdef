"""Changes of a machine's record that run no operation: lease, metadata, cordon. Pure: its owner writes them.

Each change is a value; `apply` gives the machine with it, and the events that tell of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from midge.errors import Conflict, InvalidInput, LeaseHeld, NotFound, PreconditionFailed
from midge.ids import new_nonce
from midge.lifecycle.admission import Lease, check_lease, live_lease
from midge.machine.normalise import check_metadata
from midge.worker.events import event
from midge.worker.host import EventView
from midge.worker.record import Machine, touched, with_metadata

LEASE_TTL_MAX_S = 86_400
LEASE_TTL_DEFAULT_S = 30

Edited = tuple[Machine, list[EventView]]


@dataclass(frozen=True, slots=True)
class AcquireLease:
    """A new lease, or with its nonce the same one prolonged."""

    ttl_s: int
    holder: str
    description: str = ""
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    nonce: str


@dataclass(frozen=True, slots=True)
class SetCordon:
    cordoned: bool
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class SetMetadata:
    """Merges into the metadata; None and "" remove a key. No new version, no restart."""

    changes: dict[str, str | None]
    machine_version: str = ""


Edit = AcquireLease | ReleaseLease | SetCordon | SetMetadata


def apply(machine: Machine, edit: Edit, now_ns: int) -> Edited:
    """The changed copy, and its events; the machine itself where there is nothing to change.

    Raises:
        NotFound: the machine is destroyed, or has no lease to release.
        LeaseHeld, Conflict: somebody else holds its lease.
        PreconditionFailed: it has another version.
        InvalidInput.
    """
    if isinstance(edit, ReleaseLease):
        return _release_lease(machine, edit, now_ns)
    if machine.state == "destroyed":
        raise NotFound("machine not found", id=machine.id)
    match edit:
        case AcquireLease():
            return _acquire_lease(machine, edit, now_ns)
        case SetCordon():
            return _set_cordon(machine, edit, now_ns)
        case SetMetadata():
            return _set_metadata(machine, edit, now_ns)


def new_lease(ttl_s: int, owner: str, description: str, now_ns: int) -> Lease:
    """A lease of `ttl_s` seconds from now.

    Raises:
        InvalidInput: not between 1 and LEASE_TTL_MAX_S.
    """
    if not 1 <= ttl_s <= LEASE_TTL_MAX_S:
        raise InvalidInput(f"ttl: {ttl_s} is not between 1 and {LEASE_TTL_MAX_S} seconds")
    return Lease(new_nonce(), owner or "unknown", now_ns + ttl_s * 1_000_000_000, description)


def _acquire_lease(machine: Machine, edit: AcquireLease, now_ns: int) -> Edited:
    check_lease(machine.id, machine.lease, edit.nonce, now_ns)
    lease = new_lease(edit.ttl_s, edit.holder, edit.description, now_ns)
    held = live_lease(machine.lease, now_ns)
    if held is not None:
        lease = Lease(held.nonce, held.owner, lease.expires_at_ns, edit.description or held.description)
    new = touched(machine, now_ns)
    new.lease = lease
    return new, []


def _release_lease(machine: Machine, edit: ReleaseLease, now_ns: int) -> Edited:
    held = live_lease(machine.lease, now_ns)
    if held is None:
        raise NotFound("lease not found")
    try:
        check_lease(machine.id, held, edit.nonce, now_ns)
    except LeaseHeld as error:
        raise Conflict(error.message, hint="only its holder can release a lease") from None
    new = touched(machine, now_ns)
    new.lease = None
    return new, []


def _set_cordon(machine: Machine, edit: SetCordon, now_ns: int) -> Edited:
    check_lease(machine.id, machine.lease, edit.nonce, now_ns)
    if machine.cordoned == edit.cordoned:
        return machine, []
    new = touched(machine, now_ns)
    new.cordoned = edit.cordoned
    return new, [event("cordon" if edit.cordoned else "uncordon", machine.state, "user", now_ns)]


def _set_metadata(machine: Machine, edit: SetMetadata, now_ns: int) -> Edited:
    if edit.machine_version and edit.machine_version != machine.version:
        raise PreconditionFailed(
            f"machine_version is {edit.machine_version}, the machine has {machine.version}",
            hint="read the machine again",
        )
    new = touched(machine, now_ns)
    new.config_json = with_metadata(machine.config_json, edit.changes)
    check_metadata("metadata", new.config.metadata or {})
    return new, []
