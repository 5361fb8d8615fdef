"""An HTTP/1.1 client that costs as little as possible: the time of the client is in every figure.

One connection carries one request at a time and stays open. Requests are bytes made ahead of time; an answer is
looked at only as far as its length. Only for servers that are trusted to speak HTTP correctly: Midge's own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from midge.bench.errors import BenchError

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 120.0  # the server's own waits end after 60
HEAD_BYTES_MAX = 64 * 1024


class Answer(msgspec.Struct, frozen=True):
    """`sent_at` and `done_at` in seconds of `time.perf_counter`: before the first byte out, after the last one in."""

    status: int
    body: bytes
    sent_at: float
    done_at: float

    @property
    def ms(self) -> float:
        return (self.done_at - self.sent_at) * 1000

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Server:
    """Where to send requests, and as whom."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self.host = parts.hostname or ""
        self.tls = parts.scheme == "https"
        self.port = parts.port or (443 if self.tls else 80)
        self._head = f"host: {parts.netloc}\r\nauthorization: Bearer {token}\r\n"

    def request(self, method: str, path: str, body: Any = None, *, headers: str = "") -> bytes:
        """The bytes of a request; `body` as JSON, or bytes as they are. `headers`: whole lines."""
        content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        length = f"content-length: {len(content)}\r\n" if content or method != "GET" else ""
        return f"{method} {path} HTTP/1.1\r\n{self._head}{length}{headers}\r\n".encode() + content


class Connection(asyncio.Protocol):
    """A connection that is kept; made by `open_connection`."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[Answer] | None = None
        self._sent_at = 0.0
        self._status = 0
        self._length = -1  # of the body; -1: the head is not complete, -2: chunked
        self._chunks: list[bytes] = []
        self._lost = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Sends at once. The answer is in the future. The clock starts before the write."""
        if self._lost or self._answer is not None:
            raise BenchError("connection to the server is closed or busy")
        self._answer = asyncio.get_running_loop().create_future()
        self._sent_at = perf_counter()
        self._transport.write(request)
        return self._answer

    async def ask(self, request: bytes, *, expect: tuple[int, ...] = (200, 201)) -> Answer:
        """Sends and waits.

        Raises:
            BenchError: another status, no answer in ANSWER_TIMEOUT_S, or the connection broke.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await self.send(request)
        except TimeoutError as error:
            raise BenchError(f"{_line(request)}: no answer within {ANSWER_TIMEOUT_S:g} s") from error
        if answer.status not in expect:
            text = answer.body[:400].decode(errors="replace").strip()
            raise BenchError(f"{_line(request)}: {answer.status}: {text}")
        return answer

    # ── asyncio.Protocol ──────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        self._buffer += data
        if self._length == -1 and not self._read_head():
            return
        if self._length == -2:
            if not self._read_chunks():
                return
            body = b"".join(self._chunks)
        elif len(self._buffer) < self._length:
            return
        else:
            body = bytes(self._buffer[: self._length])
            del self._buffer[: self._length]
        answer, self._answer = self._answer, None
        self._length, self._chunks = -1, []
        if answer is not None and not answer.done():
            answer.set_result(Answer(self._status, body, self._sent_at, now))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BenchError("the server has closed the connection"))

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                self.close()
            return False
        head = bytes(self._buffer[:end]).lower()
        del self._buffer[: end + 4]
        self._status = int(head[9:12])
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            self._length = int(head[at + 17 :].partition(b"\r\n")[0])
        else:
            self._length = -2 if b"\r\ntransfer-encoding: chunked" in head else 0
        return True

    def _read_chunks(self) -> bool:
        """Takes whole chunks; True after the last one."""
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(bytes(self._buffer[:end]), 16)
            if len(self._buffer) < end + 2 + size + 2:
                return False
            self._chunks.append(bytes(self._buffer[end + 2 : end + 2 + size]))
            del self._buffer[: end + 2 + size + 2]
            if size == 0:
                return True
        return False


async def open_connection(server: Server) -> Connection:
    """Raises BenchError: the server cannot be reached."""
    context = ssl.create_default_context() if server.tls else None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection, server.host, server.port, ssl=context
            )
    except (OSError, TimeoutError) as error:
        raise BenchError(f"no server answers at {server.url}") from error
    return connection


@asynccontextmanager
async def connections(server: Server, count: int) -> AsyncIterator[list[Connection]]:
    """So many, closed on leaving."""
    opened: list[Connection] = []
    try:
        for _ in range(count):
            opened.append(await open_connection(server))
        yield opened
    finally:
        for connection in opened:
            connection.close()


def _line(request: bytes) -> str:
    return request.partition(b" HTTP/")[0].decode()
