"""Apps: create, list, get, delete, and tokens that reach one app only."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from midge.api.call import Call
from midge.api.durations import request_seconds
from midge.api.names import ValidationFailed, check_app_name, check_network
from midge.api.route import Routes
from midge.api.services import Services
from midge.api.targets import app_of
from midge.central.apps import App as AppRecord
from midge.central.apps import AppNameTaken
from midge.central.organizations import PERSONAL
from midge.errors import Conflict, Forbidden, InvalidInput, NotFound
from midge.ids import new_name

TOKEN_EXPIRY_MAX_S = 100 * 365 * 24 * 3600  # longer is for ever

routes = Routes(tag="Apps")


class Organization(msgspec.Struct, kw_only=True, frozen=True):
    name: str
    slug: str
    internal_numeric_id: int


class App(msgspec.Struct, kw_only=True, frozen=True):
    """An app. `status` is ``pending`` until it has a machine, then ``deployed``; `created_at` in ms since 1970."""

    id: str
    name: str
    internal_numeric_id: int
    status: str
    network: str
    network_cidr: str
    machine_count: int
    volume_count: int
    organization: Organization
    created_at: int
    app_role: str | UnsetType = UNSET


class ListApps(msgspec.Struct, kw_only=True, frozen=True):
    total_apps: int
    apps: list[App]


class ListAppsQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`org_slug` is required: ``personal`` is the token owner's own organization."""

    org_slug: str = ""
    app_role: str = ""


class CreateAppQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`wait` is accepted and needless: the app exists when the answer comes."""

    wait: str = ""


class CreateApp(msgspec.Struct, kw_only=True, frozen=True):
    """`name` (or `app_name`, as older clients say) may be left out: one is made up."""

    name: str | None = None
    app_name: str | None = None
    org_slug: str | None = None
    network: str | None = None
    app_role_id: str | None = None
    enable_subdomains: bool | None = None
    idempotency_key: Annotated[str, Meta(max_length=256)] | None = None


class DeleteAppQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`force` is accepted and needless: machines of a deleted app are destroyed in any case, as flyctl expects."""

    force: str = ""


class CreateDeployToken(msgspec.Struct, kw_only=True, frozen=True):
    """`expiry`: a Go duration such as ``24h``; absent: never."""

    expiry: str | None = None


class DeployToken(msgspec.Struct, kw_only=True, frozen=True):
    token: str


@routes.get("/v1/apps", errors=(InvalidInput, NotFound, Forbidden))
async def list_apps(call: Call[ListAppsQuery, None]) -> ListApps:
    """List the apps of an organization."""
    services, query = call.services, call.query
    if not query.org_slug:
        raise InvalidInput("invalid_argument: query parameter org_slug: required", hint="?org_slug=personal")
    organization = await services.central.organizations.get(query.org_slug)
    call.principal.check_organization(organization)
    records = await services.central.apps.of_organization(organization.slug, role=query.app_role)
    if call.principal.app is not None:
        records = [record for record in records if record.name == call.principal.app]
    counts = Counter(view.app for view in services.host.list())
    apps = [_app(record, counts[record.name]) for record in records if not record.deleting]
    return ListApps(total_apps=len(apps), apps=apps)


@routes.post(
    "/v1/apps", status=201, errors=(InvalidInput, ValidationFailed, AppNameTaken, Forbidden, Conflict)
)
async def create_app(call: Call[CreateAppQuery, CreateApp | None]) -> App:
    """Create an app.

    The same `idempotency_key` with the same name, or none, returns the first app again.
    """
    services, body = call.services, call.body or CreateApp()
    organization = await services.central.organizations.get(body.org_slug or PERSONAL)
    call.principal.check_organization(organization)
    if call.principal.app is not None:
        raise Forbidden("unauthorized", hint=f"this token reaches only the app {call.principal.app}")
    wanted = body.name or body.app_name
    name = check_app_name(wanted) if wanted else new_name()
    record = await services.central.apps.create(
        organization,
        name,
        network=check_network(body.network or ""),
        role=body.app_role_id or "",
        idempotency_key=body.idempotency_key or None,
        named=bool(wanted),
    )
    return _app(record, 0)


@routes.get("/v1/apps/{app_name}", errors=(NotFound, Forbidden))
async def get_app(call: Call[None, None]) -> App:
    """Get one app. 404: the name is free; 403: it is taken where the caller cannot see it."""
    record = await app_of(call)
    return _app(record, len(call.services.host.list(app=record.name)))


@routes.delete("/v1/apps/{app_name}", status=202, errors=(NotFound, Forbidden))
async def delete_app(call: Call[DeleteAppQuery, None]) -> None:
    """Delete an app and destroy its machines, running or not, leased or not."""
    await finish_deletion(call.services, await app_of(call))


@routes.post("/v1/apps/{app_name}/deploy_token", errors=(InvalidInput, NotFound, Forbidden))
async def create_deploy_token(call: Call[None, CreateDeployToken | None]) -> DeployToken:
    """Make a token that reaches this app only."""
    record = await app_of(call)
    ttl_s: float | None = None
    if call.body is not None and call.body.expiry:
        seconds = request_seconds(call.body.expiry, field="$.expiry", number_unit_s=1)
        if 0 < seconds < TOKEN_EXPIRY_MAX_S:
            ttl_s = seconds
    text = await call.services.central.tokens.create(
        f"deploy token of {record.name}", organization=record.organization, app=record, ttl_s=ttl_s
    )
    return DeployToken(token=text)


async def finish_deletion(services: Services, app: AppRecord) -> None:
    """Destroys an app's machines, then removes the app; also what a restart does with a deletion cut short."""
    central = services.central
    await central.apps.begin_delete(app)
    for view in services.host.list(app=app.name):
        host = services.host_of(view.id)
        try:
            lease = host.get_lease(view.id)
            # Whoever may delete the app outranks whoever leased a machine of it.
            await host.destroy(view.id, force=True, nonce="" if lease is None else lease.nonce)
        except NotFound:
            continue
    await central.apps.finish_delete(app)


def _app(record: AppRecord, machines: int) -> App:
    organization = record.organization
    return App(
        id=record.id,
        name=record.name,
        internal_numeric_id=record.numeric_id,
        status="deployed" if machines else "pending",
        network=record.network,
        network_cidr="",
        machine_count=machines,
        volume_count=0,
        organization=Organization(
            name=organization.name, slug=organization.slug, internal_numeric_id=organization.numeric_id
        ),
        created_at=record.created_ms,
        app_role=record.role or UNSET,
    )
