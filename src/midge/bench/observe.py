"""Seeing a machine's first byte: by the kernel's notice of a write to its log, or over the API's log stream.

Nothing polls. What the observer adds is in the same series of samples: a log record carries the host's time of when the
shim read the output, so the time from there to here is the observer's own cost (shim's write included).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Literal, NamedTuple, Protocol

import msgspec

from midge.bench.api import Api
from midge.bench.errors import BenchError
from midge.bench.target import Target
from midge.logs.inotify import FileWatch
from midge.logs.record import parse_record

FIRST_BYTE_TIMEOUT_S = 90.0
READ_BYTES = 64 * 1024
Kind = Literal["log file", "log stream"]


class Seen(NamedTuple):
    """`at` in seconds of `time.perf_counter`; `lag_ms` since the record's own time, None where clocks differ."""

    at: float
    lag_ms: float | None


class Observer(Protocol):
    """Of one machine. `arm`, then let it start, then `first_byte`."""

    kind: Kind

    def arm(self) -> None: ...

    async def first_byte(self) -> Seen:
        """Raises BenchError: nothing came in FIRST_BYTE_TIMEOUT_S."""
        ...


@asynccontextmanager
async def observe(target: Target, api: Api, machine: str) -> AsyncIterator[Observer]:
    """The log file of a server of ours, else the log stream of the API."""
    if target.own is not None:
        path = target.own.data_dir / "logs" / machine / "output.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileWatch(path) as watch:
            yield LogFile(path, watch)
        return
    context = ssl.create_default_context() if api.server.tls else None
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port, ssl=context)
    try:
        writer.write(api.logs(machine))
        local = api.server.host in ("127.0.0.1", "::1", "localhost")
        yield LogStream(reader, same_clock=local)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class LogFile:
    """Woken by inotify(7), reads what is new."""

    kind: Kind = "log file"

    def __init__(self, path: Path, watch: FileWatch) -> None:
        self._path = path
        self._watch = watch
        self._size = 0

    def arm(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._size = self._path.stat().st_size

    async def first_byte(self) -> Seen:
        try:
            async with asyncio.timeout(FIRST_BYTE_TIMEOUT_S):
                while True:
                    self._watch.arm()
                    if (seen := self._look()) is not None:
                        return seen
                    await self._watch.wait()
        except TimeoutError as error:
            raise BenchError(f"machine printed nothing within {FIRST_BYTE_TIMEOUT_S:g} s") from error

    def _look(self) -> Seen | None:
        try:
            with self._path.open("rb") as log:
                log.seek(self._size)
                data = log.read(READ_BYTES)
        except FileNotFoundError:
            return None
        line, newline, _ = data.partition(b"\n")
        if not newline or (record := parse_record(line)) is None:
            return None
        return Seen(perf_counter(), (time.time_ns() - record.time_ns) / 1e6)


class LogStream:
    """Reads the NDJSON of a log that is followed."""

    kind: Kind = "log stream"

    def __init__(self, reader: asyncio.StreamReader, *, same_clock: bool) -> None:
        self._reader = reader
        self._same_clock = same_clock

    def arm(self) -> None:
        """Every record is taken by the start it belongs to."""

    async def first_byte(self) -> Seen:
        try:
            async with asyncio.timeout(FIRST_BYTE_TIMEOUT_S):
                while line := await self._reader.readline():
                    if line.startswith(b"{"):
                        now = perf_counter()
                        return Seen(now, self._lag_ms(line) if self._same_clock else None)
        except TimeoutError as error:
            raise BenchError(f"machine printed nothing within {FIRST_BYTE_TIMEOUT_S:g} s") from error
        raise BenchError("the log stream has ended")

    @staticmethod
    def _lag_ms(line: bytes) -> float:
        stamp: str = msgspec.json.decode(line)["timestamp"]
        return time.time() * 1000 - datetime.fromisoformat(stamp[:26] + "+00:00").timestamp() * 1000
