"""The OpenAPI 3.1 document, made from the routes: there is no second description to keep in step."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import msgspec

import midge
from midge.api.call import NONCE_HEADER, Stream
from midge.api.errors import ErrorBody
from midge.api.route import Route
from midge.errors import InvalidInput, LeaseHeld, MidgeError, TooLarge, Unauthorized
from midge.machine.config import MachineConfig
from midge.worker.host import EventView, ImageRefView, LeaseView

# Types of the host's protocol, by the names the Machines API has for them.
_NAMES = {
    kind.__name__: name
    for kind, name in ((EventView, "MachineEvent"), (ImageRefView, "ImageRef"), (LeaseView, "Lease"))
}
_REF = "#/components/schemas/{name}"
_REFS = {_REF.format(name=kind): _REF.format(name=name) for kind, name in _NAMES.items()}
_STATUS_TEXT = {
    101: "the websocket is open",
    400: "the request is malformed",
    401: "no token, or an unknown one",
    403: "the token does not reach this object",
    404: "no such object",
    408: "the time ran out",
    409: "somebody else changed or holds the object",
    412: "the object is in the wrong state",
    413: "the body is too large",
    422: "it cannot be done as asked",
    501: "this host cannot do that",
    503: "not now; a retry may help",
    507: "no space left",
}


def build(routes: Iterable[Route]) -> dict[str, Any]:
    """The document as JSON-compatible values."""
    all_routes = list(routes)
    schemas, components = _schemas(all_routes)
    paths: dict[str, Any] = {}
    for route in all_routes:
        method = "get" if route.method == "WEBSOCKET" else route.method.lower()
        path = route.path.replace("...}", "}")
        paths.setdefault(path, {})[method] = _operation(route, schemas, components)
    for route in all_routes:
        if route.query is not None:
            components.pop(_component(schemas[route.query.kind]), None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Midge",
            "version": midge.__version__,
            "summary": "The Fly Machines API on your own hardware",
            "description": "Operations with `x-midge-extension` are Midge's own.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(routes: list[Route]) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """Schema of every type that routes use, and the components they refer to."""
    types: list[Any] = [ErrorBody, MachineConfig]
    for route in routes:
        types += [
            kind for kind in (route.body, _response_type(route), *route.also.values()) if kind is not None
        ]
        if route.query is not None:
            types.append(route.query.kind)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    components = {name: _renamed(component) for name, component in components.items()}
    for kind, name in _NAMES.items():
        components[name] = components.pop(kind) | {"title": name}
    return _by_type(types, [_renamed(schema) for schema in schemas]), components


def _renamed(schema: Any) -> Any:
    """The schema, with references to components by the names the Machines API has for them."""
    if isinstance(schema, dict):
        return {key: _renamed(value) for key, value in schema.items()}
    if isinstance(schema, (list, tuple)):
        return [_renamed(item) for item in schema]
    return _REFS.get(schema, schema) if isinstance(schema, str) else schema


def _by_type(types: list[Any], schemas: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for kind, schema in zip(types, schemas, strict=True):
        try:
            found[kind] = schema
        except TypeError as error:  # an annotation that cannot be a key: declare a type alias for it instead
            raise TypeError(f"{kind!r} is not hashable and cannot be described") from error
    return found


def _component(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _response_type(route: Route) -> Any:
    if route.kind != "json" or route.response in (None, bytes, Stream):
        return None
    return route.response


def _operation(route: Route, schemas: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    summary, _, description = route.doc.partition("\n")
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": summary.strip(),
        "parameters": _parameters(route, schemas, components),
        "responses": _responses(route, schemas),
    }
    if text := inspect.cleandoc(description):
        operation["description"] = text
    if route.extension:
        operation["x-midge-extension"] = True
    if not route.auth:
        operation["security"] = []
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": schemas[route.body]}},
        }
    elif route.raw_body:
        operation["requestBody"] = {"required": True, "content": {"application/x-tar": {}}}
    return operation


def _parameters(route: Route, schemas: dict[Any, Any], components: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _names(route)
    ]
    if route.query is not None:
        properties = components[_component(schemas[route.query.kind])].get("properties", {})
        for name, schema in properties.items():
            parameter: dict[str, Any] = {"name": name, "in": "query", "schema": schema}
            if schema.get("type") == "object":  # metadata.KEY=VALUE
                parameter |= {"name": f"{name}.{{key}}", "schema": {"type": "string"}}
            found.append(parameter)
    if LeaseHeld in route.errors:
        found.append({"name": NONCE_HEADER.decode(), "in": "header", "schema": {"type": "string"}})
    return found


def _names(route: Route) -> list[str]:
    return [part[1:-1].removesuffix("...") for part in route.path.split("/") if part.startswith("{")]


def _responses(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.kind == "stream" or route.response is bytes:
        kind = "object" if route.content_type == "application/json" else "string"
        content = {media.strip(): {"schema": {"type": kind}} for media in route.content_type.split(",")}
    elif _response_type(route) is not None:
        content = {"application/json": {"schema": schemas[route.response]}}
    success: dict[str, Any] = {"description": "OK"} | ({"content": content} if content else {})
    status = 101 if route.kind == "websocket" else route.status
    if route.kind == "websocket":
        success = {"description": _STATUS_TEXT[101]}
    found = {str(status): success}
    for code, kind in route.also.items():
        described = {"application/json": {"schema": schemas[kind]}}
        found[str(code)] = {"description": _STATUS_TEXT.get(code, ""), "content": described}
    for code in sorted({error.status for error in _errors(route)}):
        found[str(code)] = {
            "description": _STATUS_TEXT.get(code, "an error"),
            "content": {"application/json": {"schema": schemas[ErrorBody]}},
        }
    return found


def _errors(route: Route) -> set[type[MidgeError]]:
    found: set[type[MidgeError]] = set(route.errors)
    if route.auth:
        found.add(Unauthorized)
    if route.query is not None or route.body is not None:
        found |= {InvalidInput, TooLarge}
    return found
