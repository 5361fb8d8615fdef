"""The api as one ASGI application: every resource is one module, listed here."""

from __future__ import annotations

import msgspec

from midge.api import (
    actions,
    apps,
    exec,
    exec_ws,
    history,
    images,
    leases,
    log_search,
    logs,
    machines,
    metadata,
    openapi,
    orgs,
    platform,
    proxy_ws,
    system,
    tokens,
    wait,
)
from midge.api.call import Call, Reply
from midge.api.dispatch import Api
from midge.api.route import Route, Routes
from midge.api.services import Services

RESOURCES: tuple[Routes, ...] = (
    apps.routes,
    machines.routes,
    actions.routes,
    wait.routes,
    exec.routes,
    exec_ws.routes,
    history.routes,
    history.own,
    metadata.routes,
    leases.routes,
    logs.routes,
    log_search.routes,
    proxy_ws.routes,
    orgs.routes,
    platform.routes,
    tokens.routes,
    images.routes,
    system.routes,
)


def all_routes() -> list[Route]:
    """Every route, with the one that describes the others."""
    described = [route for resource in RESOURCES for route in resource.routes]
    own = Routes(tag="Server", extension=True)
    rendered: list[bytes] = []

    @own.get("/openapi.json", auth=False)
    async def openapi_json(call: Call[None, None]) -> Reply[bytes]:
        """This document."""
        if not rendered:
            rendered.append(msgspec.json.encode(openapi.build(described + own.routes)))
        return Reply(rendered[0])

    return described + own.routes


def build_api(services: Services) -> Api:
    """The application over these services. They are opened and closed by the caller."""
    return Api(services, all_routes())
