"""The ASGI application: from a request to its handler and back.

```
 scope ─► route? ──no──► 405 with Allow, or 404 page not found (plain text), before any token is asked for
            │yes
            ▼
          token ─► query ─► body ─► handler ─► encode ─► send
            └────────┴───────┴────────┴─► MidgeError ─► its status and JSON body
                                        └► anything else ─► 500 with the request id, logged; the server lives on
```

One flat function and no middleware: the whole of it costs a few tens of microseconds a request. What of it is
starlette's and what is ours, and why, is in docs/design/007-http.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import midge
from midge.api.auth import authenticate
from midge.api.call import Call, Reply, Stream, current_request_id, find_header
from midge.api.codec import decode_json
from midge.api.errors import body_of, headers_of, internal_error, printable
from midge.api.principal import NOBODY
from midge.api.route import BODY_BYTES_MAX, Route, Router
from midge.api.send import RawHeaders, read_body, send_stream, until_gone, whole
from midge.api.services import Services
from midge.api.websocket import serve_websocket
from midge.errors import MethodNotAllowed, MidgeError
from midge.ids import new_ulid
from midge.worker.trace import received_at

NOT_FOUND = b"404 page not found\n"
_PLAIN = "text/plain; charset=utf-8"
_JSON = "application/json"
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
        raw_path = path_of(scope)
        headers: RawHeaders = [(b"fly-request-id", request_id.encode()), _SERVER]
        found = self.router.find(method, raw_path)
        if found is None or found[0].kind == "websocket":  # a method by that name is no websocket
            refusal = _not_routed(method, self.router.allowed(raw_path), headers)
            await _send(refusal, Request(scope, receive), send)
            self.services.metrics.request("", "", refusal.status_code, perf_counter() - begun)
            return
        route, path = found
        request = Request(scope, receive)
        if outer_id := find_header(scope["headers"], b"x-request-id"):
            headers.append((b"x-request-id", printable(outer_id).encode()))
        answer: Response | Stream | None
        try:
            answer = await self._answer(route, path, request, headers)
        except ClientDisconnect:
            answer = None
        except MidgeError as error:
            answer = whole(error.status, headers + headers_of(error), _JSON, body_of(error))
        except Exception:
            _log.exception("request failed", method=method, route=route.path, request_id=request_id)
            answer = whole(500, headers, _JSON, body_of(internal_error(request_id)))
        if isinstance(answer, Stream):
            status = answer.status
            await self._stream(route, answer, headers, request, send)
        elif answer is not None:
            status = answer.status_code
            await _send(answer, request, send)
        else:
            status = _CLIENT_GONE
        seconds = perf_counter() - begun
        self.services.metrics.request(method, route.path, status, seconds)
        if self.services.access_log:
            _log.info(
                "request", method=method, path=scope["path"], status=status, ms=round(seconds * 1000, 3)
            )

    async def _answer(
        self, route: Route, path: dict[str, str], request: Request, headers: RawHeaders
    ) -> Response | Stream:
        services = self.services
        principal = NOBODY
        if route.auth:
            header = find_header(request.scope["headers"], b"authorization")
            principal = await authenticate(header, services.central.tokens)
        query = None if route.query is None else route.query.decode(request.scope["query_string"])
        body: Any = None
        if route.decoder is not None:
            data = await read_body(request.receive, BODY_BYTES_MAX)
            if data or not route.body_optional:
                body = decode_json(data, route.decoder)
        call = Call(services, principal, path, request, query, body)
        if route.watched:
            result = await until_gone(route.handler(call), request.receive, services.stopping)
        else:
            result = await route.handler(call)
        return result if isinstance(result, Stream) else _encoded(route, result, headers)

    async def _stream(
        self, route: Route, stream: Stream, headers: RawHeaders, request: Request, send: Send
    ) -> None:
        headers.extend(stream.headers)
        if request.method == "HEAD":
            await stream.chunks.aclose()
            headers.append((b"content-type", stream.content_type))
            await send({"type": "http.response.start", "status": stream.status, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        try:
            await send_stream(stream, request.receive, send, headers, self.services.stopping)
        except Exception as error:
            # The head is out, so no error can be answered: end the task quietly, and the connection with it.
            _log.exception("stream broke off", route=route.path, request_id=current_request_id.get())
            raise ConnectionAbortedError(f"{route.path}: stream broke off") from error

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = perf_counter()
        request_id = new_ulid() + self._suffix
        current_request_id.set(request_id)
        found = self.router.find("WEBSOCKET", path_of(scope))
        status = await serve_websocket(found, request_id, self.services, scope, receive, send)
        label = "" if found is None else found[0].path
        self.services.metrics.request("WEBSOCKET", label, status, perf_counter() - begun)


def _encoded(route: Route, result: Any, headers: RawHeaders) -> Response:
    status, content_type = route.status, _JSON
    if type(result) is Reply:
        headers = [*headers, *result.headers]
        status = result.status or status
        content_type = result.content_type.decode()
        result = result.value
    if result is None:
        body = b""
    elif type(result) is bytes:
        body = result
    else:
        body = route.encoder.encode(result)
    return whole(status, headers, content_type, body)


def _not_routed(method: str, allowed: list[str], headers: RawHeaders) -> Response:
    if not allowed:
        return whole(404, headers, _PLAIN, NOT_FOUND)
    error = MethodNotAllowed(
        f"method {printable(method)} is not allowed here", hint=f"this path takes {', '.join(allowed)}"
    )
    allow = (b"allow", ", ".join(allowed).encode())
    return whole(error.status, [*headers, allow], _JSON, body_of(error))


async def _send(response: Response, request: Request, send: Send) -> None:
    if request.method == "HEAD":
        response.body = b""  # the headers stay, with the length of the body that a GET gets
    await response(request.scope, request.receive, send)


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
