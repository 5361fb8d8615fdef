"""Websockets: the same routes, tokens and errors as plain requests.

A refusal is answered as an HTTP response with the usual JSON body where the server can do that (uvicorn can), so
that a client reads the reason and not just "403".
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import structlog
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket as Connection
from starlette.websockets import WebSocketDisconnect, WebSocketState

import midge
from midge.api.auth import authenticate
from midge.api.call import Call, find_header
from midge.api.codec import decode_json
from midge.api.errors import body_of, internal_error
from midge.api.principal import NOBODY
from midge.api.route import Route
from midge.api.send import RawHeaders, whole
from midge.api.services import Services
from midge.api.single import single
from midge.errors import InvalidInput, MidgeError, NotFound

ACCEPTED = 101
CLOSE_NORMAL = 1000
CLOSE_ABNORMAL = 1006  # the client went without a word
CLOSE_INTERNAL = 1011

_log = structlog.get_logger("midge.api")


class WebSocket:
    """One accepted websocket: starlette's, with messages that are decoded and encoded as the api does.

    `receive` and `send_*` raise WebSocketDisconnect when the client is gone.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def receive(self) -> str | bytes:
        """The next message, text or bytes."""
        message = await self._connection.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", CLOSE_ABNORMAL))
        text: str | None = message.get("text")
        return text if text is not None else bytes(message["bytes"])

    async def receive_json(self, decoder: msgspec.json.Decoder[Any]) -> Any:
        """The next message, which must be a text with this content.

        Raises:
            InvalidInput: it is not.
        """
        message = await self.receive()
        if isinstance(message, bytes):
            raise InvalidInput("invalid_argument: expected a text message, got a binary one")
        return decode_json(message.encode(), decoder)

    async def send_bytes(self, data: bytes) -> None:
        await self._transmit({"type": "websocket.send", "bytes": data})

    async def send_json(self, value: Any) -> None:
        await self.send_text(msgspec.json.encode(value).decode())

    async def send_text(self, text: str) -> None:
        await self._transmit({"type": "websocket.send", "text": text})

    async def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> None:
        """Closes; does nothing if it is closed already, by either side."""
        if self._open:
            with contextlib.suppress(WebSocketDisconnect):
                await self._transmit({"type": "websocket.close", "code": code, "reason": reason[:120]})

    @property
    def _open(self) -> bool:
        connection = self._connection
        return connection.client_state is connection.application_state is WebSocketState.CONNECTED

    async def _transmit(self, message: Message) -> None:
        if not self._open:
            raise WebSocketDisconnect(CLOSE_ABNORMAL)
        try:
            await self._connection.send(message)
        except (
            RuntimeError
        ) as error:  # uvicorn's, if the client left in this moment; OSError is starlette's matter
            self._connection.application_state = WebSocketState.DISCONNECTED
            raise WebSocketDisconnect(CLOSE_ABNORMAL) from error


async def serve_websocket(
    found: tuple[Route, dict[str, str]] | None,
    request_id: str,
    services: Services,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> int:
    """Runs one websocket request to its end; returns a status for the metrics."""
    connection = Connection(scope, receive, send)
    await connection.receive()  # websocket.connect
    handshake = [(b"fly-request-id", request_id.encode()), (b"server", f"Midge/{midge.__version__}".encode())]
    try:
        if found is None:
            raise NotFound("404 page not found")
        route, path = found
        principal = NOBODY
        if route.auth:
            header = find_header(scope["headers"], b"authorization")
            principal = await authenticate(header, services.central.tokens)
        query = None if route.query is None else route.query.decode(scope["query_string"])
        call = Call(services, principal, path, connection, query, None)
        handler = await route.handler(call)
    except MidgeError as error:
        await _refuse(error, handshake, connection)
        return error.status
    except Exception:
        _log.exception("websocket handshake failed", request_id=request_id)
        await _refuse(internal_error(request_id), handshake, connection)
        return 500
    await connection.accept(headers=handshake)
    return await _run(handler, WebSocket(connection), request_id)


async def _run(handler: Any, socket: WebSocket, request_id: str) -> int:
    try:
        await single(handler(socket))
    except WebSocketDisconnect:
        return ACCEPTED
    except MidgeError as error:
        await _report(socket, error)
        return error.status
    except Exception:
        _log.exception("websocket failed", request_id=request_id)
        await _report(socket, internal_error(request_id))
        return 500
    await socket.close()
    return ACCEPTED


async def _report(socket: WebSocket, error: MidgeError) -> None:
    try:
        await socket.send_text(body_of(error).decode())
    except WebSocketDisconnect:
        return
    await socket.close(CLOSE_INTERNAL if error.status >= 500 else CLOSE_NORMAL, str(error))


async def _refuse(error: MidgeError, headers: RawHeaders, connection: Connection) -> None:
    if "websocket.http.response" in connection.scope.get("extensions", {}):
        response = whole(error.status, headers, "application/json", body_of(error))
        await connection.send_denial_response(response)
    else:
        await connection.close(CLOSE_INTERNAL)
