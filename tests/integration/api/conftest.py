from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect

from midge.server.assembly import RunningServer
from midge.testing.host import StagedHost
from midge.testing.server import running_server
from tests.deadlines import PATIENCE_S
from tests.loopback import DIRECT


@dataclass
class Live:
    """A server on a real socket, a client of it, and one started machine."""

    server: RunningServer
    http: httpx2.AsyncClient
    machine: str

    @property
    def host(self) -> StagedHost:
        return cast(StagedHost, self.server.services.host)

    @property
    def url(self) -> str:
        return f"/v1/apps/web/machines/{self.machine}"

    def websocket(self, path: str, **options: Any) -> connect:
        address = self.server.url.replace("http", "ws", 1)
        headers = {"authorization": f"Bearer {self.server.token}"}
        return connect(
            f"{address}{self.url}{path}", additional_headers=headers, compression=None, proxy=None, **options
        )


async def until(condition: Callable[[], bool], *, deadline_s: float = PATIENCE_S) -> None:
    """Returns as soon as the condition holds; TimeoutError if it never does."""
    async with asyncio.timeout(deadline_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


__all__ = ["ClientConnection", "Live", "until"]


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with running_server(tmp_path) as server:
        headers = {"authorization": f"Bearer {server.token}"}
        async with httpx2.AsyncClient(
            base_url=server.url, headers=headers, timeout=PATIENCE_S, **DIRECT
        ) as http:
            await http.post("/v1/apps", json={"name": "web"})
            body = {"config": {"image": "debian"}, "name": "one"}
            machine = (await http.post("/v1/apps/web/machines", json=body)).json()["id"]
            url = f"/v1/apps/web/machines/{machine}"
            assert (await http.get(f"{url}/wait?timeout=60")).status_code == 200
            yield Live(server, http, machine)
