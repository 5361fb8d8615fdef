"""One record of a machine's log: ``2026-11-21T10:00:00.123456789Z stdout F text``.

``P`` instead of ``F``: a piece of a line whose rest is still to come. Times are the host's and unique within a log,
so that the time of a record says how far a reader has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, NamedTuple

StreamName = Literal["stdout", "stderr"]

# Most bytes of a line that `join_pieces` puts together.
LINE_BYTES_MAX = 262_144
# Longest line of a log: 16 KiB of text, and what is before it.
RECORD_BYTES_MAX = 16_384 + 64
_SECOND_BYTES = len("2026-11-21T10:00:00")
_STAMP_BYTES = len("2026-11-21T10:00:00.123456789Z")
_PREFIXES: dict[bytes, tuple[StreamName, bool]] = {
    b" stdout F ": ("stdout", True),
    b" stdout P ": ("stdout", False),
    b" stderr F ": ("stderr", True),
    b" stderr P ": ("stderr", False),
}
_TEXT_AT = _STAMP_BYTES + len(b" stdout F ")


class LogRecord(NamedTuple):
    """`complete`: the line ends here. `data` is without the newline, and need not be UTF-8."""

    time_ns: int
    stream: StreamName
    data: bytes
    complete: bool


def parse_record(line: bytes) -> LogRecord | None:
    """A line of a log without its newline; None if it is no record."""
    prefix = _PREFIXES.get(line[_STAMP_BYTES:_TEXT_AT])
    time_ns = _parse_stamp(line[:_STAMP_BYTES])
    if prefix is None or time_ns is None:
        return None
    stream, complete = prefix
    return LogRecord(time_ns, stream, line[_TEXT_AT:], complete)


def format_record(record: LogRecord) -> bytes:
    """A record as the log has it, newline included."""
    seconds, fraction = divmod(record.time_ns, 1_000_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    tag = "F" if record.complete else "P"
    return f"{stamp}.{fraction:09d}Z {record.stream} {tag} ".encode() + record.data + b"\n"


def join_pieces(records: Iterable[LogRecord]) -> Iterator[LogRecord]:
    """Whole lines out of pieces, each with the time of its first piece, in the order in which lines end.

    A line over `LINE_BYTES_MAX` comes in parts; what never ended comes last, not complete.
    """
    open_lines: dict[StreamName, tuple[int, bytearray]] = {}
    for record in records:
        started = open_lines.pop(record.stream, None)
        if started is None and record.complete:
            yield record
            continue
        time_ns, data = started or (record.time_ns, bytearray())
        data += record.data
        if record.complete or len(data) > LINE_BYTES_MAX:
            yield LogRecord(time_ns, record.stream, bytes(data), record.complete)
        else:
            open_lines[record.stream] = (time_ns, data)
    for stream, (time_ns, data) in sorted(open_lines.items(), key=lambda item: item[1][0]):
        yield LogRecord(time_ns, stream, bytes(data), False)


def _parse_stamp(stamp: bytes) -> int | None:
    fraction = stamp[_SECOND_BYTES + 1 : -1]
    if stamp[-1:] != b"Z" or stamp[_SECOND_BYTES : _SECOND_BYTES + 1] != b"." or not fraction.isdigit():
        return None
    seconds = _seconds(stamp[:_SECOND_BYTES])
    return None if seconds is None else seconds * 1_000_000_000 + int(fraction)


# Output comes in bursts: most records share their second with the one before.
@lru_cache(maxsize=64)
def _seconds(text: bytes) -> int | None:
    try:
        return int(
            datetime.strptime(text.decode("ascii"), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
        )
    except ValueError:
        return None
