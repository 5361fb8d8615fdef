"""The logs of an app in the form flyctl polls for."""

from __future__ import annotations

from typing import Any

import msgspec

from midge.api.call import Call
from midge.api.logs import timestamp
from midge.api.route import Routes
from midge.api.targets import app_of
from midge.errors import Forbidden, InvalidInput, NotFound
from midge.logs.record import LogRecord
from midge.worker.host import MachineView

RECORDS_MAX = 100  # in one answer, as flyctl expects
MACHINES_MAX = 100  # machines whose logs one request reads, those that changed last

routes = Routes(tag="Logs")


class AppLogsQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`next_token`: what the last answer gave, nanoseconds since 1970."""

    region: str = ""
    instance: str = ""
    next_token: str = ""


class LogAttributes(msgspec.Struct, kw_only=True, frozen=True):
    timestamp: str
    message: str
    level: str
    instance: str
    region: str
    meta: dict[str, Any]


class LogEntry(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    type: str
    attributes: LogAttributes


class LogsMeta(msgspec.Struct, kw_only=True, frozen=True):
    next_token: str


class AppLogs(msgspec.Struct, kw_only=True, frozen=True):
    data: list[LogEntry]
    meta: LogsMeta


@routes.get("/api/v1/apps/{app_name}/logs", errors=(InvalidInput, NotFound, Forbidden))
async def app_logs(call: Call[AppLogsQuery, None]) -> AppLogs:
    """The newest records of an app's machines, or those after `next_token`, oldest first."""
    app, query, host = await app_of(call), call.query, call.services.host
    since_ns = _token(query.next_token)
    views = [
        view
        for view in host.list(app=app.name, region=query.region or None)
        if not query.instance or view.id == query.instance
    ]
    views.sort(key=lambda view: -view.updated_at_ns)
    found: list[tuple[LogRecord, MachineView]] = []
    for view in views[:MACHINES_MAX]:
        found += [(record, view) for record in await host.logs(view.id).tail(RECORDS_MAX, since_ns)]
    found.sort(key=lambda pair: pair[0].time_ns)
    # After a token the oldest come first, so that polling misses nothing; without one, the newest count.
    found = found[:RECORDS_MAX] if since_ns is not None else found[-RECORDS_MAX:]
    next_token = str(found[-1][0].time_ns) if found else query.next_token
    return AppLogs(data=[_entry(*pair) for pair in found], meta=LogsMeta(next_token=next_token))


def _token(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidInput("invalid_argument: query parameter next_token: not a token of this list")
    return int(text)


def _entry(record: LogRecord, view: MachineView) -> LogEntry:
    attributes = LogAttributes(
        timestamp=timestamp(record.time_ns),
        message=record.data.decode("utf-8", "replace"),
        level="info",
        instance=view.id,
        region=view.region,
        meta={"instance": view.id, "region": view.region, "stream": record.stream},
    )
    return LogEntry(id=f"{view.id}-{record.time_ns}", type="log", attributes=attributes)
