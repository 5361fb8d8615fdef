"""Changes of a machine's record that run no operation: lease, metadata, cordon. Each runs in its owner's turn."""

from __future__ import annotations

from midge.errors import Conflict, InvalidInput, LeaseHeld, NotFound, PreconditionFailed
from midge.ids import new_nonce
from midge.lifecycle.admission import Lease, check_lease, live_lease
from midge.machine.normalise import check_metadata
from midge.worker.change import Change
from midge.worker.events import event
from midge.worker.host import LeaseView
from midge.worker.owner import Owner
from midge.worker.record import Machine, lease_view, touched, with_metadata

LEASE_TTL_MAX_S = 86_400
LEASE_TTL_DEFAULT_S = 30


def new_lease(ttl_s: int, owner: str, description: str, now_ns: int) -> Lease:
    """A lease of `ttl_s` seconds from now.

    Raises:
        InvalidInput: not between 1 and LEASE_TTL_MAX_S.
    """
    if not 1 <= ttl_s <= LEASE_TTL_MAX_S:
        raise InvalidInput(f"ttl: {ttl_s} is not between 1 and {LEASE_TTL_MAX_S} seconds")
    return Lease(new_nonce(), owner or "unknown", now_ns + ttl_s * 1_000_000_000, description)


async def acquire_lease(owner: Owner, *, ttl_s: int, holder: str, description: str, nonce: str) -> LeaseView:
    """A new lease, or with its nonce the same one prolonged."""
    machine, now_ns = _alive(owner), owner.parts.clock.now_ns()
    check_lease(machine.id, machine.lease, nonce, now_ns)
    lease = new_lease(ttl_s, holder, description, now_ns)
    held = live_lease(machine.lease, now_ns)
    if held is not None:
        lease = Lease(held.nonce, held.owner, lease.expires_at_ns, description or held.description)
    new = _copy(owner, machine)
    new.lease = lease
    await owner.commit(Change(new))
    return lease_view(lease, machine.version)


async def release_lease(owner: Owner, *, nonce: str) -> None:
    machine, now_ns = owner.machine, owner.parts.clock.now_ns()
    held = live_lease(machine.lease, now_ns)
    if held is None:
        raise NotFound("lease not found")
    try:
        check_lease(machine.id, held, nonce, now_ns)
    except LeaseHeld as error:
        raise Conflict(error.message, hint="only its holder can release a lease") from None
    new = _copy(owner, machine)
    new.lease = None
    await owner.commit(Change(new))


async def set_cordon(owner: Owner, *, cordoned: bool, nonce: str) -> None:
    machine, now_ns = _alive(owner), owner.parts.clock.now_ns()
    check_lease(machine.id, machine.lease, nonce, now_ns)
    if machine.cordoned == cordoned:
        return
    new = _copy(owner, machine)
    new.cordoned = cordoned
    name = "cordon" if cordoned else "uncordon"
    await owner.commit(Change(new, events=[event(name, machine.state, "user", now_ns)]))


async def set_metadata(owner: Owner, *, changes: dict[str, str | None], machine_version: str) -> None:
    """Merges into the metadata; None and "" remove a key. No new version, no restart."""
    machine = _alive(owner)
    if machine_version and machine_version != machine.version:
        raise PreconditionFailed(
            f"machine_version is {machine_version}, the machine has {machine.version}",
            hint="read the machine again",
        )
    new = _copy(owner, machine)
    new.config_json = with_metadata(machine.config_json, changes)
    check_metadata("metadata", new.config.metadata or {})
    await owner.commit(Change(new, whole=True, replace_version_config=True))


def _alive(owner: Owner) -> Machine:
    machine = owner.machine
    if machine.state == "destroyed":
        raise NotFound("machine not found", id=machine.id)
    return machine


def _copy(owner: Owner, machine: Machine) -> Machine:
    return touched(machine, owner.parts.clock.now_ns())
