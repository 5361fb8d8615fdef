"""Websockets: the same routes, tokens and errors as plain requests.

A refusal is answered as an HTTP response with the usual JSON body where the server can do that (uvicorn can), so
that a client reads the reason and not just "403".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from starlette.types import Receive, Scope, Send

import midge
from midge.api.auth import authenticate
from midge.api.call import Call, find_header
from midge.api.codec import decode_json
from midge.api.errors import body_of, internal_error
from midge.api.principal import NOBODY
from midge.api.route import Route
from midge.api.services import Services
from midge.api.single import single
from midge.errors import InvalidInput, MidgeError, NotFound

ACCEPTED = 101
CLOSE_NORMAL = 1000
CLOSE_INTERNAL = 1011

_log = structlog.get_logger("midge.api")


class Disconnected(Exception):
    """The client has closed the websocket."""


class WebSocket:
    """One accepted websocket. `receive` and `send_*` raise Disconnected when the client is gone."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._open = True

    async def receive(self) -> str | bytes:
        """The next message, text or bytes."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._open = False
            raise Disconnected
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
        """Closes; does nothing if the client was first."""
        if self._open:
            self._open = False
            try:
                await self._send({"type": "websocket.close", "code": code, "reason": reason[:120]})
            except (OSError, RuntimeError):
                return

    async def _transmit(self, message: dict[str, Any]) -> None:
        if not self._open:
            raise Disconnected
        try:
            await self._send(message)
        except (OSError, RuntimeError) as error:
            self._open = False
            raise Disconnected from error


async def serve_websocket(
    found: tuple[Route, dict[str, str]] | None,
    request_id: str,
    services: Services,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> int:
    """Runs one websocket request to its end; returns a status for the metrics."""
    await receive()  # websocket.connect
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
        call = Call(services, principal, path, scope["headers"], query, None, receive)
        handler = await route.handler(call)
    except MidgeError as error:
        await _refuse(error, handshake, scope, send)
        return error.status
    except Exception:
        _log.exception("websocket handshake failed", request_id=request_id)
        await _refuse(internal_error(request_id), handshake, scope, send)
        return 500
    await send({"type": "websocket.accept", "headers": handshake})
    return await _run(handler, WebSocket(receive, send), request_id)


async def _run(handler: Any, socket: WebSocket, request_id: str) -> int:
    try:
        await single(handler(socket))
    except Disconnected:
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
    except Disconnected:
        return
    await socket.close(CLOSE_INTERNAL if error.status >= 500 else CLOSE_NORMAL, str(error))


async def _refuse(
    error: MidgeError, headers: list[tuple[bytes, bytes]], scope: Mapping[str, Any], send: Send
) -> None:
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": CLOSE_INTERNAL})
        return
    body = body_of(error)
    headers = [
        *headers,
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
