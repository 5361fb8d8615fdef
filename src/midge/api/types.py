"""What goes over the wire about machines, and how it is made from what the host says.

Go's clients set the rules: times are RFC 3339, `image_ref` is an object, `config` is there while `host_status` is
``ok``, events come newest first, lists may be empty and are never null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from midge.clock import rfc3339
from midge.machine.config import MachineConfig
from midge.worker.host import EventView, Host, ImageRefView, LeaseView, MachineView

EVENTS_IN_GET = 20  # newest events in the answer about one machine
EVENTS_IN_LIST = 5  # ... and in a list of machines

# The configuration as stored: defaults filled in, members we do not know kept.
ConfigJson = Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/MachineConfig"})]


class Ok(msgspec.Struct, kw_only=True, frozen=True):
    ok: bool = True


class CheckStatus(msgspec.Struct, kw_only=True, frozen=True):
    """`status` is ``passing``, ``warning`` or ``critical``."""

    name: str
    status: str
    output: str
    updated_at: str


class StrippedLease(msgspec.Struct, kw_only=True, frozen=True):
    """A lease without its nonce. `expires_at` in seconds since 1970."""

    owner: str
    expires_at: int
    description: str


class Machine(msgspec.Struct, kw_only=True, frozen=True):
    """A machine. `instance_id` and `version` are the same; `nonce` comes only with a lease taken at creation."""

    id: str
    name: str
    state: str
    region: str
    image_ref: ImageRefView
    instance_id: str
    version: str
    private_ip: str
    created_at: str
    updated_at: str
    config: ConfigJson | UnsetType = UNSET
    events: Sequence[EventView] | UnsetType = UNSET
    checks: list[CheckStatus] | UnsetType = UNSET
    host_status: str | UnsetType = UNSET
    cordoned: bool = False
    nonce: str | UnsetType = UNSET
    lease: StrippedLease | UnsetType = UNSET


class MachineVersion(msgspec.Struct, kw_only=True, frozen=True):
    version: str
    user_config: ConfigJson


class Metadata(msgspec.Struct, frozen=True):
    """The one member of a configuration that searches look at."""

    metadata: dict[str, str] | None = None


_metadata_decoder = msgspec.json.Decoder(Metadata)


def machine_of(
    view: MachineView, host: Host, *, events: int = EVENTS_IN_GET, lease: bool = False, nonce: str = ""
) -> Machine:
    """The full object. `lease`: with its lease, without the lease's nonce; `nonce`: as creation answers it."""
    return Machine(
        id=view.id,
        name=view.name,
        state=view.state,
        region=view.region,
        image_ref=view.image_ref,
        instance_id=view.version,
        version=view.version,
        private_ip=view.private_ip,
        created_at=rfc3339(view.created_at_ns),
        updated_at=rfc3339(view.updated_at_ns),
        config=view.config,
        events=host.events(view.id, events),
        checks=[],
        host_status=view.host_status,
        cordoned=view.cordoned,
        nonce=nonce or UNSET,
        lease=stripped(view.lease) if lease and view.lease is not None else UNSET,
    )


def summary_of(view: MachineView) -> Machine:
    """Without configuration, checks, events and host status."""
    return Machine(
        id=view.id,
        name=view.name,
        state=view.state,
        region=view.region,
        image_ref=view.image_ref,
        instance_id=view.version,
        version=view.version,
        private_ip=view.private_ip,
        created_at=rfc3339(view.created_at_ns),
        updated_at=rfc3339(view.updated_at_ns),
        cordoned=view.cordoned,
    )


def stripped(lease: LeaseView) -> StrippedLease:
    return StrippedLease(owner=lease.owner, expires_at=lease.expires_at, description=lease.description)


def metadata_of(view: MachineView) -> dict[str, str]:
    return _metadata_decoder.decode(view.config).metadata or {}


def config_of(view: MachineView) -> MachineConfig:
    return msgspec.json.decode(view.config, type=MachineConfig)
