"""Machines of a whole organization, oldest change first."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import UNSET, UnsetType

from midge.api.call import Call
from midge.api.paging import LIMIT_MAX, Limit, decode_cursor, encode_cursor
from midge.api.route import Routes
from midge.clock import rfc3339
from midge.errors import Forbidden, InvalidInput, NotFound
from midge.machine.config import Guest
from midge.worker.host import MachineView

routes = Routes(tag="Organizations")


class OrgMachinesQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`updated_after` as RFC 3339; `cursor` counts before it."""

    include_deleted: bool = False
    region: str = ""
    state: list[str] = []
    summary: bool = False
    updated_after: str = ""
    cursor: str = ""
    limit: Limit = LIMIT_MAX


class MachineOverviewConfig(msgspec.Struct, kw_only=True, frozen=True):
    image: str | None = None
    guest: Guest | None = None
    metadata: dict[str, str] | None = None


class OrgMachine(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    app_name: str
    name: str
    state: str
    region: str
    version: str
    private_ip: str
    created_at: str
    updated_at: str
    config: MachineOverviewConfig | UnsetType = UNSET


class OrgMachines(msgspec.Struct, kw_only=True, frozen=True):
    """An empty `next_cursor` is the end."""

    machines: list[OrgMachine]
    last_machine_id: str
    last_updated_at: str
    next_cursor: str
    error_regions: list[str] = []


_overview = msgspec.json.Decoder(MachineOverviewConfig)


@routes.get("/v1/orgs/{org_slug}/machines", errors=(InvalidInput, NotFound, Forbidden))
async def list_org_machines(call: Call[OrgMachinesQuery, None]) -> OrgMachines:
    """List all machines of an organization, sorted by `updated_at`."""
    services, query = call.services, call.query
    organization = await services.central.organizations.get(call.path["org_slug"])
    call.principal.check_organization(organization)
    apps = {app.name for app in await services.central.apps.of_organization(organization.slug)}
    if call.principal.app is not None:
        apps &= {call.principal.app}
    after = _after(query)
    views = services.host.list(
        states=frozenset(query.state), region=query.region or None, include_deleted=query.include_deleted
    )
    wanted = sorted(
        (view.updated_at_ns, view.id, view)
        for view in views
        if view.app in apps and (view.updated_at_ns, view.id) > after
    )
    page = [view for _, _, view in wanted[: query.limit]]
    more = len(wanted) > query.limit
    last = page[-1] if page else None
    return OrgMachines(
        machines=[_org_machine(view, summary=query.summary) for view in page],
        last_machine_id=last.id if last else "",
        last_updated_at=rfc3339(last.updated_at_ns) if last else "",
        next_cursor=encode_cursor(f"{last.updated_at_ns}:{last.id}") if last and more else "",
    )


def _after(query: OrgMachinesQuery) -> tuple[int, str]:
    """The position (time in ns, machine id) that the page comes after."""
    if query.cursor:
        stamp, _, machine_id = decode_cursor(query.cursor).partition(":")
        if not stamp.isdecimal():
            raise InvalidInput("invalid_argument: query parameter cursor: not a cursor of this list")
        return int(stamp), machine_id
    if not query.updated_after:
        return -1, ""
    try:
        moment = datetime.fromisoformat(query.updated_after)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return int(moment.timestamp() * 1_000_000_000), "~"
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            "invalid_argument: query parameter updated_after: not an RFC 3339 time",
            hint="for example 2026-01-31T12:00:00Z",
        ) from error


def _org_machine(view: MachineView, *, summary: bool) -> OrgMachine:
    return OrgMachine(
        id=view.id,
        app_name=view.app,
        name=view.name,
        state=view.state,
        region=view.region,
        version=view.version,
        private_ip=view.private_ip,
        created_at=rfc3339(view.created_at_ns),
        updated_at=rfc3339(view.updated_at_ns),
        config=UNSET if summary else _overview.decode(view.config),
    )
