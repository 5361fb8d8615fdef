"""A machine's output: the records of `/logs`, and following it from another thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from midge.client.failures import TransportError
from midge.client.machines import logs
from midge.errors import MidgeError, NotFound

if TYPE_CHECKING:
    from midge.client.transport import Lines, Transport

# Seconds the following thread may take to end after its stream was shut down.
JOIN_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """One line of output. `timestamp` in RFC 3339 with nanoseconds; `partial`: the line goes on in the next one."""

    timestamp: str
    stream: str
    message: str
    partial: bool = False

    @property
    def data(self) -> bytes:
        """The bytes as the program wrote them."""
        return self.message.encode("utf-8", "surrogateescape") + (b"" if self.partial else b"\n")


def parse(line: bytes) -> Record:
    """Raises TransportError for anything but a record."""
    try:
        fields = json.loads(line)
        return Record(
            str(fields["timestamp"]),
            str(fields["stream"]),
            str(fields["message"]),
            bool(fields.get("partial")),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TransportError("the server sent a log record that is none") from error


class Follower:
    """Delivers a machine's output from its first line while another thread waits for the machine to end.

    with Follower(transport, app, machine, deliver) as follower:
        ...wait for the end of the machine...
        follower.finish()

    `deliver` is called by the following thread, and by `finish` once that has ended: never by two at once. Leaving
    without `finish` just stops.
    """

    def __init__(
        self, transport: Transport, app: str, machine: str, deliver: Callable[[Record], None]
    ) -> None:
        self._transport = transport
        self._app = app
        self._machine = machine
        self._deliver = deliver
        self._thread = threading.Thread(target=self._follow, name="midge-logs", daemon=True)
        self._lock = threading.Lock()
        self._stopping = False
        self._lines: Lines | None = None
        self._last = ""

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def finish(self) -> None:
        """Delivers what is still missing. To be called when the machine has ended: its log is complete then."""
        self._stop()
        try:
            # Times are unique within a log: what is later than the last one has not been delivered.
            with self._transport.lines(logs(self._app, self._machine, since=self._last)) as lines:
                for line in lines:
                    self._deliver(parse(line))
        except NotFound:
            # It destroyed itself, and its log went with it: what was followed is all there is.
            return

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            if self._lines is not None:
                self._lines.abort()
        self._thread.join(JOIN_TIMEOUT_S)

    def _follow(self) -> None:
        try:
            with self._transport.lines(logs(self._app, self._machine, follow=True)) as lines:
                with self._lock:
                    self._lines = lines
                    if self._stopping:
                        return
                for line in lines:
                    record = parse(line)
                    self._deliver(record)
                    self._last = record.timestamp
        except MidgeError:
            # Aborted, or broken: `finish` fetches the rest, and says what is wrong if something is.
            return
        finally:
            with self._lock:
                self._lines = None
