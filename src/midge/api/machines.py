"""Machines: create, list, get, update, destroy. What a running machine is told to do is in `actions`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from midge.api.call import Call, Reply
from midge.api.codec import decode_json
from midge.api.names import check_machine_name
from midge.api.paging import NEXT_CURSOR_HEADER, Limit, decode_cursor, encode_cursor
from midge.api.regions import choose_region
from midge.api.route import Routes
from midge.api.services import Services
from midge.api.targets import app_of, host_and_id, machine_of_call
from midge.api.types import (
    EVENTS_IN_LIST,
    ConfigJson,
    Machine,
    Ok,
    machine_of,
    summary_of,
)
from midge.central.apps import App
from midge.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LeaseHeld,
    NameTaken,
    NoCapacity,
    NotFound,
    NotSupported,
    PreconditionFailed,
)
from midge.ids import new_machine_id, new_name
from midge.machine.config import MachineConfig
from midge.worker.host import CreateMachine as HostCreate
from midge.worker.host import UpdateMachine as HostUpdate

LEASE_TTL_MAX_S = 24 * 3600
NAME_TRIES_MAX = 8  # generated names that may be taken before we give up: 34 million are possible

LeaseTtl = Annotated[int, Meta(ge=0, le=LEASE_TTL_MAX_S)]

routes = Routes(tag="Machines")
_config_decoder = msgspec.json.Decoder(MachineConfig)


class CreateMachine(msgspec.Struct, kw_only=True, frozen=True):
    """Only `config.image` is required. Members that are unknown are ignored."""

    config: ConfigJson
    name: str | None = None
    region: str | None = None
    skip_launch: bool | None = None
    skip_service_registration: bool | None = None
    lease_ttl: LeaseTtl | None = None
    skip_secrets: bool | None = None
    min_secrets_version: int | None = None


class UpdateMachine(msgspec.Struct, kw_only=True, frozen=True):
    """The whole configuration is replaced. `name` and `region` cannot change: empty or equal is fine."""

    config: ConfigJson
    name: str | None = None
    region: str | None = None
    skip_launch: bool | None = None
    skip_service_registration: bool | None = None
    lease_ttl: LeaseTtl | None = None
    current_version: str | None = None
    skip_secrets: bool | None = None
    min_secrets_version: int | None = None


class ListQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`metadata.KEY=VALUE` may be given several times; `limit` turns paging on."""

    include_deleted: bool = False
    include_leases: bool = False
    region: str = ""
    state: list[str] = []
    summary: bool = False
    metadata: dict[str, str] = {}
    limit: Limit | None = None
    cursor: str = ""


class GetQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`version`: that version's configuration; its state is ``replaced`` unless it is the current one."""

    include_leases: bool = False
    version: str = ""


class DestroyQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`force` and `kill` mean the same: end it first if it runs."""

    force: bool = False
    kill: bool = False


@routes.get("/v1/apps/{app_name}/machines", errors=(InvalidInput, NotFound, Forbidden))
async def list_machines(call: Call[ListQuery, None]) -> Reply[list[Machine]]:
    """List the machines of an app, sorted by id.

    Without `limit` the list is complete. With it, the answer's header `fly-next-cursor` holds the `cursor` of the
    next page; there is none after the last.
    """
    app, query = await app_of(call), call.query
    if query.cursor and query.limit is None:
        raise InvalidInput("invalid_argument: query parameter cursor: needs limit")
    views = call.services.host.list(
        app=app.name,
        states=frozenset(query.state),
        region=query.region or None,
        metadata=query.metadata or None,
        include_deleted=query.include_deleted,
        after_id=decode_cursor(query.cursor),
        limit=query.limit,
    )
    headers: list[tuple[bytes, bytes]] = []
    if query.limit is not None and len(views) == query.limit:
        headers.append((NEXT_CURSOR_HEADER, encode_cursor(views[-1].id).encode()))
    if query.summary:
        return Reply([summary_of(view) for view in views], headers=headers)
    host, leases = call.services.host, query.include_leases
    machines = [machine_of(view, host, events=EVENTS_IN_LIST, lease=leases) for view in views]
    return Reply(machines, headers=headers)


@routes.post(
    "/v1/apps/{app_name}/machines",
    errors=(InvalidInput, NotFound, Forbidden, NameTaken, Conflict, NoCapacity, NotSupported),
)
async def create_machine(call: Call[None, CreateMachine]) -> Machine:
    """Create a machine and start it, unless `skip_launch`. Answers as soon as the machine is reserved."""
    services, body = call.services, call.body
    app = await app_of(call)
    config = decode_json(bytes(body.config), _config_decoder, at="$.config")
    if body.name:
        check_machine_name(body.name)
    region = choose_region(body.region or "", services.region)
    machine_id = new_machine_id()
    name = await _reserve(services, app, machine_id, body.name or "", region)
    request = HostCreate(
        id=machine_id,
        app=app.name,
        name=name,
        region=region,
        config=config,
        config_json=bytes(body.config),
        skip_launch=bool(body.skip_launch),
        cordoned=bool(body.skip_service_registration),
        lease_ttl_s=body.lease_ttl or 0,
        owner=call.principal.owner,
    )
    return await _create(services, request)


async def _create(services: Services, request: HostCreate) -> Machine:
    host, records = services.host, services.central.machines
    try:
        view = await host.create(request)
    except Exception:
        await records.drop(request.id)
        raise
    if not await records.confirm(request.id, view.image_ref.digest):
        # The app was deleted meanwhile, or the reservation ended and was cleared.
        nonce = view.lease.nonce if view.lease is not None else ""
        await host.destroy(request.id, force=True, nonce=nonce)
        await services.central.apps.get(request.app)
        raise Conflict("aborted: the machine's name was given up before its host had it", hint="try again")
    nonce = view.lease.nonce if request.lease_ttl_s and view.lease is not None else ""
    return machine_of(view, host, nonce=nonce)


async def _reserve(services: Services, app: App, machine_id: str, wanted: str, region: str) -> str:
    """Records the intent and returns the machine's name."""
    records, host_name = services.central.machines, services.host.status().name
    for _ in range(NAME_TRIES_MAX):
        name = wanted or new_name()
        holder = await records.reserve(app, machine_id, name, region=region, host=host_name)
        if holder is None:
            return name
        if not records.is_reserved(holder) and _is_gone(services, holder.id):
            await records.drop_as_read(holder)
        elif wanted:
            raise NameTaken(
                f"already_exists: unique machine name violation, machine ID {holder.id} "
                f'already exists with name "{name}"',
                hint="choose another name, or leave it out and one is made up",
            )
    raise Conflict("aborted: no free machine name found", hint="try again")


def _is_gone(services: Services, machine_id: str) -> bool:
    """Destroyed, or unknown to its host: its name may be used again."""
    try:
        return services.host_of(machine_id).get(machine_id).state == "destroyed"
    except NotFound:
        return True


@routes.get("/v1/apps/{app_name}/machines/{machine_id}", errors=(InvalidInput, NotFound, Forbidden))
async def get_machine(call: Call[GetQuery, None]) -> Machine:
    """Get one machine. A destroyed one can be read for some minutes."""
    host, view = await machine_of_call(call)
    query = call.query
    if query.version and query.version != view.version:
        for version, config in host.versions(view.id):
            if version == query.version:
                old = msgspec.structs.replace(view, version=version, config=config, state="replaced")
                return machine_of(old, host, lease=query.include_leases)
        raise NotFound("machine version not found")
    return machine_of(view, host, lease=query.include_leases)


@routes.post(
    "/v1/apps/{app_name}/machines/{machine_id}",
    errors=(InvalidInput, NotFound, Forbidden, Conflict, LeaseHeld, PreconditionFailed, NotSupported),
)
async def update_machine(call: Call[None, UpdateMachine]) -> Machine:
    """Replace a machine's configuration: a new version is made at once, the exchange goes on in the background."""
    host, view = await machine_of_call(call)
    body = call.body
    for field, wanted, have in (("name", body.name, view.name), ("region", body.region, view.region)):
        if wanted and wanted != have:
            raise InvalidInput(f"invalid_argument: $.{field}: cannot be changed, it is {have!r}")
    config = decode_json(bytes(body.config), _config_decoder, at="$.config")
    updated = await host.update(
        view.id,
        HostUpdate(
            config=config,
            config_json=bytes(body.config),
            skip_launch=bool(body.skip_launch),
            current_version=body.current_version or "",
            lease_ttl_s=body.lease_ttl or 0,
            owner=call.principal.owner,
        ),
        nonce=call.nonce,
    )
    nonce = updated.lease.nonce if body.lease_ttl and updated.lease is not None else ""
    return machine_of(updated, host, nonce=nonce)


@routes.delete(
    "/v1/apps/{app_name}/machines/{machine_id}",
    errors=(InvalidInput, NotFound, Forbidden, LeaseHeld, PreconditionFailed),
)
async def destroy_machine(call: Call[DestroyQuery, None]) -> Ok:
    """Destroy a machine; with `force` (or `kill`) even when it runs."""
    host, machine_id = await host_and_id(call)
    await host.destroy(machine_id, force=call.query.force or call.query.kill, nonce=call.nonce)
    return Ok()
