"""What a machine printed: its end, all of it, or all of it and what is still to come.

One JSON object a line, ``{"timestamp", "stream", "message"}``; ``"partial": true`` says that the line goes on in the
next object of that stream. With ``Accept: text/plain`` the bytes are sent as they were printed.

Output need not be UTF-8. A byte that is none comes as the escape of the lone surrogate U+DC80 to U+DCFF, as Python's
`surrogateescape` has it: readers that know get the very bytes, all others a replacement character.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from midge.api.call import Call, Stream
from midge.api.durations import request_seconds
from midge.api.log_follow import follow, records_after
from midge.api.route import Routes
from midge.api.targets import host_and_id
from midge.errors import Forbidden, InvalidInput, NotFound
from midge.logs.reader import TAIL_RECORDS_MAX, LogReader
from midge.logs.record import LogRecord
from midge.worker.host import Host

CHUNK_BYTES = 64 * 1024  # records are sent together up to this size
TEXT = b"text/plain; charset=utf-8"

Encoder = Callable[[LogRecord], bytes]

routes = Routes(tag="Machines", extension=True)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class LogsQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`tail`: the newest so many records; `since`: a time (RFC 3339) or how long ago (``10m``)."""

    follow: bool = False
    tail: Annotated[int, Meta(ge=0, le=TAIL_RECORDS_MAX)] | None = None
    since: str = ""
    stream: Literal["stdout", "stderr", ""] = ""


class LogLine(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    timestamp: str
    stream: str
    message: str
    partial: bool = False


@routes.get(
    "/v1/apps/{app_name}/machines/{machine_id}/logs",
    errors=(InvalidInput, NotFound, Forbidden),
    content_type="application/x-ndjson, text/plain",
)
async def read_logs(call: Call[LogsQuery, None]) -> Stream:
    """Read a machine's output, oldest first; with `follow`, go on until the machine is destroyed."""
    host, machine_id = await host_and_id(call)
    query = call.query
    since_ns = since(query.since)
    records = _records(host, machine_id, query, since_ns)
    if query.stream:
        records = _only(records, query.stream)
    as_text = call.header(b"accept").startswith("text/plain")
    if as_text:
        return Stream(_chunks(records, _raw), content_type=TEXT)
    return Stream(_chunks(records, encode_line))


async def _records(
    host: Host, machine_id: str, query: LogsQuery, since_ns: int | None
) -> AsyncGenerator[list[LogRecord], None]:
    """Batches of what is asked for."""
    reader = host.logs(machine_id)
    if query.tail is not None:
        found = await _tail(reader, query.tail, since_ns, query.stream)
        yield found
        if not query.follow:
            return
        # From where the tail ended, or from now on.
        since_ns = found[-1].time_ns if found else None
        if query.tail == 0 or not found:
            newest = await reader.tail(1)
            since_ns = newest[-1].time_ns if newest else 0
    elif not query.follow:
        async for batch in _until_now(reader, since_ns or 0):
            yield batch
        return
    async for batch in follow(host, machine_id, reader, since_ns or 0):
        yield batch


async def _tail(reader: LogReader, count: int, since_ns: int | None, stream: str) -> list[LogRecord]:
    """The newest `count` records of a stream, or of both."""
    if not stream:
        return await reader.tail(count, since_ns)
    found = [record for record in await reader.tail(TAIL_RECORDS_MAX, since_ns) if record.stream == stream]
    return found[len(found) - min(count, len(found)) :]


async def _until_now(reader: LogReader, since_ns: int) -> AsyncIterator[list[LogRecord]]:
    """All there is, without holding it all: reads on from the beginning to what is the newest now."""
    newest = await reader.tail(1, since_ns)
    if not newest:
        return
    batch: list[LogRecord] = []
    size = 0
    async with records_after(reader, since_ns) as records:
        async for record in records:
            batch.append(record)
            size += len(record.data)
            if size >= CHUNK_BYTES or record.time_ns >= newest[0].time_ns:
                yield batch
                batch, size = [], 0
            if record.time_ns >= newest[0].time_ns:
                return


async def _only(
    batches: AsyncGenerator[list[LogRecord], None], stream: str
) -> AsyncGenerator[list[LogRecord], None]:
    async for batch in batches:
        yield [record for record in batch if record.stream == stream]


async def _chunks(
    batches: AsyncGenerator[list[LogRecord], None], encode: Encoder
) -> AsyncGenerator[bytes, None]:
    async for batch in batches:
        if batch:
            yield b"".join(encode(record) for record in batch)


def _raw(record: LogRecord) -> bytes:
    return record.data + b"\n" if record.complete else record.data


def encode_line(record: LogRecord) -> bytes:
    """A record as a line of JSON."""
    try:
        message = record.data.decode()
    except UnicodeDecodeError:
        return _encode_odd(record)
    line = LogLine(
        timestamp=timestamp(record.time_ns),
        stream=record.stream,
        message=message,
        partial=not record.complete,
    )
    return msgspec.json.encode(line) + b"\n"


def _encode_odd(record: LogRecord) -> bytes:
    fields: dict[str, str | bool] = {
        "timestamp": timestamp(record.time_ns),
        "stream": record.stream,
        "message": record.data.decode("utf-8", "surrogateescape"),
    }
    if not record.complete:
        fields["partial"] = True
    return json.dumps(fields).encode("ascii") + b"\n"


def timestamp(time_ns: int) -> str:
    """RFC 3339 with nanoseconds."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{fraction:09d}Z"


def since(text: str) -> int | None:
    """``2026-11-21T10:00:00.123Z`` or ``10m`` as nanoseconds since 1970; None for an empty one.

    Raises:
        InvalidInput: it is neither.
    """
    if not text:
        return None
    match = _RFC3339.fullmatch(text)
    if match is None:
        seconds = request_seconds(text, field="query parameter since", number_unit_s=1)
        return time.time_ns() - int(seconds * 1_000_000_000)
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    except ValueError as error:
        raise InvalidInput(f"invalid_argument: query parameter since: no such time: {text!r}") from error
    return int(moment.timestamp()) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
