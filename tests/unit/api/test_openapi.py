"""The OpenAPI document and the router agree: what is described is routed, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from midge.api.app import all_routes
from midge.api.openapi import build

from .client import CheckedClient

pytestmark = pytest.mark.anyio

DOCUMENT: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(build(all_routes())))
WEBSOCKETS = {route.path for route in all_routes() if route.kind == "websocket"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def test_every_route_is_described_once() -> None:
    routed = [
        (route.path.replace("...}", "}"), "get" if route.kind == "websocket" else route.method.lower())
        for route in all_routes()
    ]
    described = [(path, method) for path, operations in DOCUMENT["paths"].items() for method in operations]
    assert sorted(described) == sorted(routed)


@pytest.mark.parametrize("path", sorted(DOCUMENT["paths"].keys() - WEBSOCKETS))
async def test_methods_that_are_not_described_answer_405(anonymous: CheckedClient, path: str) -> None:
    described = {method.upper() for method in DOCUMENT["paths"][path]}
    allowed = sorted(described | {"HEAD"} if "GET" in described else described)
    for method in METHODS:
        if method not in allowed:
            answer = await anonymous.request(method, path.replace("{", "").replace("}", ""))
            assert (answer.status_code, answer.headers["allow"]) == (405, ", ".join(allowed)), method


def test_every_reference_leads_somewhere() -> None:
    text = msgspec.json.encode(DOCUMENT).decode()
    named = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= DOCUMENT["components"]["schemas"].keys()
    assert {"MachineEvent", "ImageRef", "Lease"} <= named
    assert not {"EventView", "ImageRefView", "LeaseView"} & DOCUMENT["components"]["schemas"].keys()
    assert DOCUMENT["components"]["schemas"]["Lease"]["title"] == "Lease"
