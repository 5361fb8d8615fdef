"""One TCP connection to a port of a machine, carried by a websocket.

Binary messages are the bytes, both ways. The text ``eof`` says that its sender will send no more (a half-close);
the websocket is closed when both sides have said so, or one of them is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from midge.api.call import Call
from midge.api.route import Routes
from midge.api.targets import host_and_id
from midge.api.websocket import WebSocket
from midge.errors import Forbidden, InvalidInput, NotFound, PreconditionFailed, Unavailable

CONNECT_TIMEOUT_S = 10.0
CHUNK_BYTES = 64 * 1024
EOF = "eof"

Conversation = Callable[[WebSocket], Awaitable[None]]
routes = Routes(tag="Machines", extension=True)


class ProxyQuery(msgspec.Struct, kw_only=True, frozen=True):
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None


@routes.websocket(
    "/v1/apps/{app_name}/machines/{machine_id}/proxy/ws",
    errors=(InvalidInput, NotFound, Forbidden, PreconditionFailed, Unavailable),
)
async def proxy_port(call: Call[ProxyQuery, None]) -> Conversation:
    """Carry one TCP connection to a port of the machine. Refused with 503 when nothing listens there."""
    host, machine_id = await host_and_id(call)
    port = call.query.port
    if port is None:
        raise InvalidInput("invalid_argument: query parameter port: required")
    address = host.address(machine_id)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(address, port, limit=CHUNK_BYTES)
    except (OSError, TimeoutError) as error:
        raise Unavailable(
            f"machine {machine_id} does not accept connections on port {port}: {error or 'timed out'}",
            hint="the program has to listen on 0.0.0.0 or [::], not on localhost",
        ) from error

    async def converse(socket: WebSocket) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_to_machine(socket, writer))
                group.create_task(_to_client(socket, reader))
        except* OSError as gone:
            # The machine broke the connection off: so does the websocket.
            await socket.close(1011, str(gone.exceptions[0]))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return converse


async def _to_machine(socket: WebSocket, writer: asyncio.StreamWriter) -> None:
    while True:
        message = await socket.receive()
        if isinstance(message, bytes):
            writer.write(message)
            await writer.drain()
        elif message == EOF:
            writer.write_eof()
            return
        else:
            raise InvalidInput("invalid_argument: the only text message is `eof`")


async def _to_client(socket: WebSocket, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(CHUNK_BYTES):
        await socket.send_bytes(data)
    await socket.send_text(EOF)
