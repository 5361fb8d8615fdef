"""What happened to a machine: events, versions, the phases of its starts, figures, processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from midge.api.call import Call
from midge.api.first_byte import add_first_bytes
from midge.api.route import Routes
from midge.api.targets import host_and_id
from midge.api.types import MachineVersion
from midge.errors import Forbidden, InvalidInput, NotFound, NotSupported, PreconditionFailed
from midge.worker.host import EventView

EVENTS_DEFAULT = 20
EVENTS_MAX = 50
PHASES_DEFAULT = 10
PHASES_MAX = 100

routes = Routes(tag="Machines")
own = Routes(tag="Machines", extension=True)
_MACHINE = "/v1/apps/{app_name}/machines/{machine_id}"


class EventsQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`limit`: at most 50."""

    limit: Annotated[int, Meta(ge=1)] = EVENTS_DEFAULT


class PsQuery(msgspec.Struct, kw_only=True, frozen=True):
    sort_by: Literal["pid", "stime", "rtime", "command", "directory", "cpu", "rss", ""] = ""
    order: Literal["asc", "desc", ""] = ""


class PhasesQuery(msgspec.Struct, kw_only=True, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=PHASES_MAX)] = PHASES_DEFAULT


class ListenSocket(msgspec.Struct, kw_only=True, frozen=True):
    proto: str
    address: str


class ProcessStat(msgspec.Struct, kw_only=True, frozen=True):
    """`stime` (when it began, since 1970), `rtime` (for how long it runs) and `cpu` (processor time) in milliseconds,
    `rss` in bytes."""

    pid: int
    stime: int = 0
    rtime: int = 0
    command: str = ""
    directory: str = ""
    cpu: int = 0
    rss: int = 0
    listen_sockets: list[ListenSocket] | None = None


class StartPhases(msgspec.Struct, kw_only=True, frozen=True):
    """How one start went: `phases` are pairs of a name and the milliseconds from the request's arrival to its end.

    ``first byte`` is from the machine's log, where that still has it. The write that ends the operation comes after
    all of them. `state` and `error` say how it ended, as far as the host keeps that.
    """

    start_id: str
    kind: str
    phases: list[tuple[str, float]]
    state: str = ""
    error: str = ""


@routes.get(f"{_MACHINE}/events", errors=(InvalidInput, NotFound, Forbidden))
async def list_events(call: Call[EventsQuery, None]) -> Sequence[EventView]:
    """The latest events, newest first."""
    host, machine_id = await host_and_id(call)
    return host.events(machine_id, min(call.query.limit, EVENTS_MAX))


@routes.get(f"{_MACHINE}/versions", errors=(InvalidInput, NotFound, Forbidden))
async def list_versions(call: Call[None, None]) -> list[MachineVersion]:
    """All versions of the machine's configuration, newest first."""
    host, machine_id = await host_and_id(call)
    return [MachineVersion(version=version, user_config=raw) for version, raw in host.versions(machine_id)]


@routes.get(f"{_MACHINE}/ps", errors=(InvalidInput, NotFound, Forbidden, PreconditionFailed))
async def list_processes(call: Call[PsQuery, None]) -> list[ProcessStat]:
    """The processes inside the machine."""
    host, machine_id = await host_and_id(call)
    found = msgspec.convert(await host.ps(machine_id), list[ProcessStat], strict=False)
    if call.query.sort_by:
        by = call.query.sort_by
        found.sort(key=lambda process: getattr(process, by), reverse=call.query.order == "desc")
    return found


@own.get(f"{_MACHINE}/phases", errors=(InvalidInput, NotFound, Forbidden))
async def list_phases(call: Call[PhasesQuery, None]) -> list[StartPhases]:
    """Where the time of the latest starts went, newest first."""
    host, machine_id = await host_and_id(call)
    starts = await add_first_bytes(host.phases(machine_id, call.query.limit), host.logs(machine_id))
    return msgspec.convert(starts, list[StartPhases], strict=False)


@own.get(f"{_MACHINE}/stats", errors=(InvalidInput, NotFound, Forbidden, PreconditionFailed, NotSupported))
async def get_stats(call: Call[None, None]) -> dict[str, Any]:
    """Memory, CPU and I/O figures of a running machine, as its driver reports them."""
    host, machine_id = await host_and_id(call)
    return await host.stats(machine_id)
