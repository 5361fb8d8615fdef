"""QEMU's monitor protocol, as far as Midge needs it: commands in order, events by name.

Source: QEMU's "QMP protocol specification". Commands are answered in the order they were sent, so they can be sent
without waiting for the ones before. A command that fails does not stop the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import msgspec

from midge.errors import DriverError

CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 20.0  # a restore under emulation on a loaded host
STATE = "state"  # name of the file with the device state, as `migrate` and `migrate-incoming` know it
LINE_MAX_BYTES = 4 * 1024 * 1024
EVENTS_MAX = 256  # events nobody asked for yet; older ones are dropped


class QmpError(DriverError):
    """QEMU refused a command, or went away."""

    code = "qmp_failed"


class Qmp(asyncio.Protocol):
    """A monitor connection; made by `connect`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._replies: deque[tuple[str, asyncio.Future[Any]]] = deque()
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._watchers: list[tuple[Callable[[dict[str, Any]], bool], asyncio.Future[dict[str, Any]]]] = []
        self._lost: QmpError | None = None

    @classmethod
    async def connect(cls, path: Path, *, state_fd: int | None = None) -> Self:
        """Connects and negotiates; does not wait for QEMU to answer.

        Args:
            state_fd: an open file that QEMU is handed under the name STATE.

        Raises:
            QmpError: nobody listens.
        """
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        protocol = cls()
        try:
            connection.setblocking(False)
            connection.connect(str(path))  # a unix socket that listens accepts at once, or not at all
            # Descriptors travel beside bytes, which no transport of asyncio can do: so before there is one.
            greeting = [protocol._expect("qmp_capabilities", {})]
            fds = []
            if state_fd is not None:
                greeting.append(protocol._expect("getfd", {"fdname": STATE}))
                fds.append(state_fd)
            socket.send_fds(connection, [b"".join(greeting)], fds)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_unix_connection(lambda: protocol, sock=connection)
        except (OSError, TimeoutError) as error:
            connection.close()
            raise QmpError(f"no monitor at {path}") from error
        return protocol

    def _expect(self, command: str, arguments: dict[str, Any]) -> bytes:
        """The bytes of a command whose answer nobody waits for."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_seen)
        self._replies.append((command, future))
        return _encode(command, arguments)

    def post(self, command: str, **arguments: Any) -> asyncio.Future[Any]:
        """Sends a command; the future has its answer. Answers nobody waits for are dropped."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_seen)
        if self._lost is not None or self._transport is None:
            future.set_exception(self._lost or QmpError("monitor is not connected"))
            return future
        self._replies.append((command, future))
        self._transport.write(_encode(command, arguments))
        return future

    async def execute(self, command: str, *, timeout_s: float = COMMAND_TIMEOUT_S, **arguments: Any) -> Any:
        """Sends a command and waits for its answer.

        Raises:
            QmpError: refused, timed out, or QEMU is gone.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self.post(command, **arguments)
        except TimeoutError as error:
            raise QmpError(f"{command}: no answer within {timeout_s:g} s") from error

    def event(self, matches: Callable[[dict[str, Any]], bool]) -> asyncio.Future[dict[str, Any]]:
        """The first event that matches, among those that have come already or are still to come."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_seen)
        for event in self._events:
            if matches(event):
                future.set_result(event)
                return future
        if self._lost is not None:
            future.set_exception(self._lost)
        else:
            self._watchers.append((matches, future))
        return future

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # ── asyncio.Protocol ──────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's by class, only by what they do.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            with contextlib.suppress(msgspec.DecodeError):
                self._take(msgspec.json.decode(line))
        if len(self._buffer) > LINE_MAX_BYTES and self._transport is not None:
            self._transport.abort()

    def _take(self, message: Any) -> None:
        if not isinstance(message, dict) or "QMP" in message:
            return
        if "event" in message:
            self._events.append(message)
            for matches, watcher in self._watchers:
                if not watcher.done() and matches(message):
                    watcher.set_result(message)
            self._watchers = [w for w in self._watchers if not w[1].done()]
            return
        if not self._replies:
            return
        command, future = self._replies.popleft()
        if future.done():
            return
        if "error" in message:
            description = str(message["error"].get("desc", "no reason given"))
            future.set_exception(QmpError(f"{command}: {description}"))
        else:
            future.set_result(message.get("return"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = QmpError("QEMU has closed its monitor")
        for _, future in self._replies:
            if not future.done():
                future.set_exception(self._lost)
        for _, watcher in self._watchers:
            if not watcher.done():
                watcher.set_exception(self._lost)
        self._replies.clear()
        self._watchers.clear()


def _encode(command: str, arguments: dict[str, Any]) -> bytes:
    message = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
    return msgspec.json.encode(message) + b"\n"


def _seen(future: asyncio.Future[Any]) -> None:
    """Marks an exception as looked at: not every answer has a reader."""
    if not future.cancelled():
        future.exception()


def migration_is(*statuses: str) -> Callable[[dict[str, Any]], bool]:
    """Matches the MIGRATION event of one of `statuses`."""
    return lambda event: event["event"] == "MIGRATION" and event["data"]["status"] in statuses
