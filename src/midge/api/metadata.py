"""Metadata: strings on a machine. Changing them makes no new version and restarts nothing; no lease is asked for."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from midge.api.call import Call
from midge.api.route import Routes
from midge.api.targets import host_and_id, machine_of_call
from midge.api.types import metadata_of
from midge.errors import Forbidden, InvalidInput, NotFound, PreconditionFailed

KEY_MAX = 256  # characters
VALUE_MAX = 16 * 1024  # characters
KEYS_MAX = 256  # keys changed in one request

Value = Annotated[str, Meta(max_length=VALUE_MAX)]

routes = Routes(tag="Machines")
_METADATA = "/v1/apps/{app_name}/machines/{machine_id}/metadata"


class MetadataChanges(msgspec.Struct, kw_only=True, frozen=True):
    """Merged into what is there; null or an empty string removes a key."""

    metadata: dict[str, Value | None]
    machine_version: str | None = None
    updated_at: str | None = None


class MetadataValue(msgspec.Struct, kw_only=True, frozen=True):
    value: Value
    updated_at: str | None = None


class MetadataValueResponse(msgspec.Struct, kw_only=True, frozen=True):
    value: str


@routes.get(_METADATA, errors=(InvalidInput, NotFound, Forbidden))
async def get_metadata(call: Call[None, None]) -> dict[str, str]:
    """All keys and values."""
    _, view = await machine_of_call(call)
    return metadata_of(view)


@routes.patch(_METADATA, status=204, errors=(InvalidInput, NotFound, Forbidden, PreconditionFailed))
async def patch_metadata(call: Call[None, MetadataChanges]) -> None:
    """Set and remove several keys at once."""
    await _merge(call)


@routes.put(_METADATA, status=204, errors=(InvalidInput, NotFound, Forbidden, PreconditionFailed))
async def put_metadata(call: Call[None, MetadataChanges]) -> None:
    """The same as PATCH: merges, does not replace."""
    await _merge(call)


async def _merge(call: Call[None, MetadataChanges]) -> None:
    host, machine_id = await host_and_id(call)
    body = call.body
    if len(body.metadata) > KEYS_MAX:
        raise InvalidInput(f"invalid_argument: $.metadata: more than {KEYS_MAX} keys")
    changes = {_key(key): value or None for key, value in body.metadata.items()}
    await host.set_metadata(machine_id, changes, machine_version=body.machine_version or "")


@routes.get(f"{_METADATA}/{{key}}", errors=(InvalidInput, NotFound, Forbidden))
async def get_metadata_value(call: Call[None, None]) -> MetadataValueResponse:
    """One value."""
    _, view = await machine_of_call(call)
    value = metadata_of(view).get(call.path["key"])
    if value is None:
        raise NotFound("metadata key not found")
    return MetadataValueResponse(value=value)


@routes.post(f"{_METADATA}/{{key}}", status=204, errors=(InvalidInput, NotFound, Forbidden))
async def set_metadata_value(call: Call[None, MetadataValue]) -> None:
    """Set one key."""
    host, machine_id = await host_and_id(call)
    await host.set_metadata(machine_id, {_key(call.path["key"]): call.body.value or None})


@routes.delete(f"{_METADATA}/{{key}}", status=204, errors=(InvalidInput, NotFound, Forbidden))
async def delete_metadata_value(call: Call[None, None]) -> None:
    """Remove one key. No error if it is not there."""
    host, machine_id = await host_and_id(call)
    await host.set_metadata(machine_id, {call.path["key"]: None})


def _key(key: str) -> str:
    if not key or len(key) > KEY_MAX:
        raise InvalidInput(f"invalid_argument: a metadata key has 1 to {KEY_MAX} characters")
    return key
