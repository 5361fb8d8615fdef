"""The ASGI application: from a request to its handler and back.

```
 scope ─► route? ──no──► 404 page not found (plain text, before any token is asked for)
            │yes
            ▼
          token ─► query ─► body ─► handler ─► encode ─► send
            └────────┴───────┴────────┴─► MidgeError ─► its status and JSON body
                                        └► anything else ─► 500 with the request id, logged; the server lives on
```

One flat function and no middleware: the whole of it costs a few tens of microseconds a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

import midge
from midge.api.auth import authenticate
from midge.api.call import Call, Headers, Reply, Stream, current_request_id, find_header
from midge.api.codec import decode_json
from midge.api.errors import body_of, headers_of, internal_error, printable
from midge.api.principal import NOBODY
from midge.api.route import BODY_BYTES_MAX, Route, Router
from midge.api.send import ClientGone, RawHeaders, read_body, send_body, send_stream, until_gone
from midge.api.services import Services
from midge.api.websocket import serve_websocket
from midge.errors import MidgeError
from midge.ids import new_ulid
from midge.worker.trace import received_at

NOT_FOUND = b"404 page not found\n"
_PLAIN = b"text/plain; charset=utf-8"
_SERVER = (b"server", f"Midge/{midge.__version__}".encode())
_NO_CONTENT = 204
_CLIENT_GONE = 499  # in metrics only: nobody is there to read it

_log = structlog.get_logger("midge.api")


class Api:
    """The application. Holds no state of its own: that is in `services`."""

    def __init__(self, services: Services, routes: Iterable[Route]) -> None:
        self.services = services
        self.router = Router(routes)
        self._suffix = "-" + services.region

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await _lifespan(receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = perf_counter()
        request_id = new_ulid() + self._suffix
        current_request_id.set(request_id)
        received_at.set(begun)
        method: str = scope["method"]
        headers: RawHeaders = [(b"fly-request-id", request_id.encode()), _SERVER]
        found = self.router.find(method, path_of(scope))
        if found is None:
            await send_body(send, 404, headers, _PLAIN, NOT_FOUND)
            self.services.metrics.request("", "", 404, perf_counter() - begun)
            return
        route, path = found
        request_headers: Headers = scope["headers"]
        if outer_id := find_header(request_headers, b"x-request-id"):
            headers.append((b"x-request-id", printable(outer_id).encode()))
        try:
            status = await self._answer(
                route, path, scope["query_string"], request_headers, headers, receive, send
            )
        except ClientGone:
            status = _CLIENT_GONE
        except MidgeError as error:
            status = error.status
            headers.extend(headers_of(error))
            await send_body(send, status, headers, b"application/json", body_of(error))
        except Exception:
            _log.exception("request failed", method=method, route=route.path, request_id=request_id)
            status = 500
            await send_body(send, status, headers, b"application/json", body_of(internal_error(request_id)))
        seconds = perf_counter() - begun
        self.services.metrics.request(method, route.path, status, seconds)
        if self.services.access_log:
            _log.info(
                "request", method=method, path=scope["path"], status=status, ms=round(seconds * 1000, 3)
            )

    async def _answer(
        self,
        route: Route,
        path: dict[str, str],
        query_string: bytes,
        request_headers: Headers,
        headers: RawHeaders,
        receive: Receive,
        send: Send,
    ) -> int:
        services = self.services
        principal = NOBODY
        if route.auth:
            header = find_header(request_headers, b"authorization")
            principal = await authenticate(header, services.central.tokens)
        query = None if route.query is None else route.query.decode(query_string)
        body: Any = None
        if route.decoder is not None:
            data = await read_body(receive, BODY_BYTES_MAX)
            if data or not route.body_optional:
                body = decode_json(data, route.decoder)
        call = Call(services, principal, path, request_headers, query, body, receive)
        if route.watched:
            result = await until_gone(route.handler(call), receive, services.stopping)
        else:
            result = await route.handler(call)
        return await _send_result(route, result, headers, receive, send, services)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = perf_counter()
        request_id = new_ulid() + self._suffix
        current_request_id.set(request_id)
        found = self.router.find("WEBSOCKET", path_of(scope))
        status = await serve_websocket(found, request_id, self.services, scope, receive, send)
        label = "" if found is None else found[0].path
        self.services.metrics.request("WEBSOCKET", label, status, perf_counter() - begun)


async def _send_result(
    route: Route, result: Any, headers: RawHeaders, receive: Receive, send: Send, services: Services
) -> int:
    status, content_type = route.status, b"application/json"
    if type(result) is Reply:
        headers.extend(result.headers)
        status = result.status or status
        content_type = result.content_type
        result = result.value
    elif type(result) is Stream:
        headers.extend(result.headers)
        try:
            await send_stream(result, receive, send, headers, services.stopping)
        except Exception as error:
            # The head is out, so no error can be answered: end the task quietly, and the connection with it.
            _log.exception("stream broke off", route=route.path, request_id=current_request_id.get())
            raise ConnectionAbortedError(f"{route.path}: stream broke off") from error
        return result.status
    if result is None:
        body = b""
    elif type(result) is bytes:
        body = result
    else:
        body = route.encoder.encode(result)
    await send_body(send, status, headers, content_type, body)
    return status


def path_of(scope: Scope) -> str:
    """The path as it was sent, still percent-encoded, so that an encoded slash separates nothing."""
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"] if raw is None else raw.decode("latin-1")
    return path.partition("?")[0]


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to do: what the api needs is opened and closed by whoever built it."""
    while (message := await receive())["type"] != "lifespan.shutdown":
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
