"""HTTP/1.1 over a connected unix socket, as much of it as Firecracker speaks: one request after the other.

No library: a start sends one request, and each module not imported is a start not delayed. Answers come from a VMM
that a hostile guest may have taken over, so every length has a limit.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

HEADER_BYTES_MAX = 8_192  # status line and headers
BODY_BYTES_MAX = 262_144  # an answer; what this driver asks for has some hundred bytes


class HttpError(Exception):
    """The connection ended, or what came is no answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Connection:
    """A connection that is used by one task at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connected: socket.socket) -> Connection:
        """Takes over a connected socket."""
        return cls(*await asyncio.open_unix_connection(sock=connected, limit=HEADER_BYTES_MAX))

    def close(self) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, body: bytes | None) -> Answer:
        """Sends a request and waits for its answer. Raises: HttpError."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Accept: application/json"]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        try:
            self._writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
            await self._writer.drain()
            return await self._answer()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise HttpError("the connection ended") from error
        except (asyncio.LimitOverrunError, ValueError) as error:
            raise HttpError("that is no answer in HTTP") from error

    async def _answer(self) -> Answer:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.rstrip("\r\n").split("\r\n")
        version, status, *_ = status_line.split(" ", 2)
        if not version.startswith("HTTP/1.") or len(status) != 3:
            raise ValueError(status_line)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        length = int(headers.get("content-length", "0"))
        if not 0 <= length <= BODY_BYTES_MAX:
            raise ValueError(f"content-length {length}")
        return Answer(int(status), await self._reader.readexactly(length))
