"""Leases: one holder at a time may change a machine.

The specification shows a bare lease; what clients read is ``{"status": "success", "data": …}``. The time to live comes
in the body, or as ``?ttl=`` with no body at all.
"""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta

from midge.api.call import Call
from midge.api.machines import LEASE_TTL_MAX_S
from midge.api.route import Routes
from midge.api.targets import host_and_id
from midge.api.types import Ok
from midge.errors import Forbidden, InvalidInput, LeaseHeld, NotFound
from midge.worker.host import LeaseView

TTL_DEFAULT_S = 30

T = TypeVar("T")
Ttl = Annotated[int, Meta(ge=0, le=LEASE_TTL_MAX_S)]

routes = Routes(tag="Machines")
_LEASE = "/v1/apps/{app_name}/machines/{machine_id}/lease"


class Wrapped(msgspec.Struct, Generic[T], kw_only=True, frozen=True):
    data: T
    status: str = "success"


class LeaseQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`ttl` in seconds; 30 if it is given nowhere."""

    ttl: Ttl = 0


class LeaseBody(msgspec.Struct, kw_only=True, frozen=True):
    ttl: Ttl | None = None
    description: Annotated[str, Meta(max_length=1024)] | None = None


@routes.get(_LEASE, errors=(InvalidInput, NotFound, Forbidden))
async def get_lease(call: Call[None, None]) -> Wrapped[LeaseView]:
    """The lease that is held, with its nonce."""
    host, machine_id = await host_and_id(call)
    lease = host.get_lease(machine_id)
    if lease is None:
        raise NotFound("lease not found")
    return Wrapped(data=lease)


@routes.post(_LEASE, status=201, errors=(InvalidInput, NotFound, Forbidden, LeaseHeld))
async def acquire_lease(call: Call[LeaseQuery, LeaseBody | None]) -> Wrapped[LeaseView]:
    """Take the lease; with the nonce of the one held in `fly-machine-lease-nonce`: extend it."""
    host, machine_id = await host_and_id(call)
    body = call.body or LeaseBody()
    lease = await host.acquire_lease(
        machine_id,
        ttl_s=body.ttl or call.query.ttl or TTL_DEFAULT_S,
        owner=call.principal.owner,
        description=body.description or "",
        nonce=call.nonce,
    )
    return Wrapped(data=lease)


@routes.delete(_LEASE, errors=(InvalidInput, NotFound, Forbidden, LeaseHeld))
async def release_lease(call: Call[None, None]) -> Wrapped[Ok]:
    """Give the lease back. Its nonce comes in `fly-machine-lease-nonce`."""
    host, machine_id = await host_and_id(call)
    if not call.nonce:
        raise InvalidInput(
            "invalid_argument: header fly-machine-lease-nonce: required", hint="the nonce the lease came with"
        )
    await host.release_lease(machine_id, nonce=call.nonce)
    return Wrapped(data=Ok())
