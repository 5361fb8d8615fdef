"""Routes are declared where they are handled.

```
routes = Routes(tag="machines")

@routes.post("/v1/apps/{app_name}/machines/{machine_id}/stop", errors=(NotFound, LeaseHeld))
async def stop(call: Call[None, StopBody | None]) -> Ok: ...
```

The annotations are the declaration: `Call[Query, Body]` says how to decode (None: nothing to decode; ``Body | None``:
an empty body is fine), the return type says what the answer looks like. The same declaration makes the OpenAPI
document. Paths are found in a tree of segments: the time does not grow with the number of routes.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import unquote

import msgspec

from midge.api.call import Reply, Stream
from midge.api.codec import QueryCodec
from midge.errors import MidgeError

BODY_BYTES_MAX = 16 * 1024 * 1024  # of a JSON body: a configuration with inline files fits
PATH_SEGMENTS_MAX = 32  # deeper paths are not ours

Handler = Callable[..., Awaitable[Any]]
H = TypeVar("H", bound=Handler)
Kind = Literal["json", "stream", "websocket"]


@dataclass(slots=True, kw_only=True)
class Route:
    """One method on one path.

    Attributes:
        body: type of the body, or None; `body_optional` when an empty one is fine.
        raw_body: the handler reads the body itself, piece by piece.
        also: bodies of answers other than `status` that are no errors, by their status.
        watched: the handler is cancelled when the client goes away or the server stops.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    kind: Kind
    auth: bool
    status: int
    query: QueryCodec[Any] | None
    body: Any
    body_optional: bool
    decoder: msgspec.json.Decoder[Any] | None
    raw_body: bool
    watched: bool
    response: Any
    content_type: str
    errors: tuple[type[MidgeError], ...]
    extension: bool
    also: dict[int, Any]
    names: tuple[str, ...] = ()
    encoder: msgspec.json.Encoder = field(default_factory=msgspec.json.Encoder)

    @property
    def name(self) -> str:
        return self.handler.__name__

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.handler) or ""


class Routes:
    """Collects the routes of one resource.

    Args:
        extension: these routes are Midge's own and not Fly's; the OpenAPI document says so.
    """

    def __init__(self, *, tag: str, extension: bool = False) -> None:
        self.tag = tag
        self.extension = extension
        self.routes: list[Route] = []

    def get(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._add("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._add("POST", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._add("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._add("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._add("DELETE", path, **options)

    def websocket(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._add("WEBSOCKET", path, **options)

    def _add(self, method: str, path: str, **options: Any) -> Callable[[H], H]:
        def register(handler: H) -> H:
            self.routes.append(
                _declare(method, path, handler, tag=self.tag, extension=self.extension, **options)
            )
            return handler

        return register


def _declare(
    method: str,
    path: str,
    handler: Handler,
    *,
    tag: str,
    extension: bool,
    status: int = 200,
    auth: bool = True,
    errors: tuple[type[MidgeError], ...] = (),
    raw_body: bool = False,
    watched: bool = False,
    content_type: str = "",
    also: dict[int, Any] | None = None,
) -> Route:
    hints = get_type_hints(handler)
    query, body = get_args(hints["call"])
    optional = body is not NoneType and NoneType in get_args(body)
    if optional:
        body = Union[tuple(arg for arg in get_args(body) if arg is not NoneType)]  # noqa: UP007 - built at run time
    returned = hints.get("return", NoneType)
    if get_origin(returned) is Reply:
        (returned,) = get_args(returned)
    kind: Kind = "websocket" if method == "WEBSOCKET" else "json"
    if returned is Stream or (isinstance(returned, UnionType) and Stream in get_args(returned)):
        kind = "stream"
    has_body = body is not NoneType
    return Route(
        method=method,
        path=path,
        handler=handler,
        tag=tag,
        kind=kind,
        auth=auth,
        status=status,
        query=None if query is NoneType else QueryCodec(query),
        body=body if has_body else None,
        body_optional=optional,
        decoder=msgspec.json.Decoder(body) if has_body else None,
        raw_body=raw_body,
        watched=watched,
        response=None if returned is NoneType else returned,
        content_type=content_type or ("application/x-ndjson" if kind == "stream" else "application/json"),
        errors=errors,
        extension=extension,
        also=also or {},
    )


class _Node:
    __slots__ = ("children", "parameter", "routes", "tail")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.tail: dict[str, Route] = {}
        self.routes: dict[str, Route] = {}


class Router:
    """Finds the route of a method and a raw (still percent-encoded) path.

    A HEAD is answered by the route of the GET.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        self.routes = list(routes)
        for route in self.routes:
            self._insert(route)

    def _insert(self, route: Route) -> None:
        node, names = self._root, []
        for segment in route.path.split("/")[1:]:
            if segment.endswith("...}"):
                names.append(segment[1:-4])
                self._claim(node.tail, route)
                break
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.children.setdefault(segment, _Node())
        else:
            self._claim(node.routes, route)
        route.names = tuple(names)

    @staticmethod
    def _claim(taken: dict[str, Route], route: Route) -> None:
        if route.method in taken:
            raise ValueError(f"{route.method} {route.path} is declared twice")
        taken[route.method] = route

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]] | None:
        """The route and its path parameters, percent-decoded; None when nothing is there for this method."""
        here = self._walk(raw_path)
        if here is None:
            return None
        routes, values = here
        found = routes.get("GET" if method == "HEAD" else method)
        if found is None:
            return None
        return found, dict(zip(found.names, values, strict=True))

    def allowed(self, raw_path: str) -> list[str]:
        """The HTTP methods of a path, sorted; empty if there is nothing, or only a websocket."""
        here = self._walk(raw_path)
        methods = set() if here is None else here[0].keys() - {"WEBSOCKET"}
        return sorted(methods | {"HEAD"} if "GET" in methods else methods)

    def _walk(self, raw_path: str) -> tuple[dict[str, Route], list[str]] | None:
        """What is declared on a path, by method, and the values of its parameters."""
        segments = raw_path.split("/", PATH_SEGMENTS_MAX)[1:]
        node, values = self._root, []
        for index, segment in enumerate(segments):
            child = node.children.get(segment)
            if child is not None:
                node = child
            elif segment and node.parameter is not None:
                values.append(unquote(segment) if "%" in segment else segment)
                node = node.parameter
            elif segment and node.tail:
                values.append(unquote("/".join(segments[index:])))
                return node.tail, values
            else:
                return None
        return node.routes, values
