"""The requests the benchmarks send, as bytes made ahead of time, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote

from midge.bench.errors import BenchError
from midge.bench.http import Answer, Connection, Server, connections, open_connection
from midge.bench.image import TAG

T = TypeVar("T")

SETUP_CONNECTIONS = 16  # for what is not measured: creating and destroying machines
MEMORY_MB = 256  # of a machine, as Fly's smallest
_JSON = "content-type: application/json\r\n"


class Api:
    """One app on one server. `connection` is for requests that come one after another."""

    def __init__(self, server: Server, app: str, connection: Connection) -> None:
        self.server = server
        self.app = app
        self.connection = connection
        self._machines = f"/v1/apps/{app}/machines"

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, *, launch: bool = False, memory_mb: int = MEMORY_MB) -> bytes:
        config = {
            "image": TAG,
            "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": memory_mb},
            "restart": {"policy": "no"},
        }
        return self._post(self._machines, {"config": config, "skip_launch": not launch})

    def start(self, machine: str) -> bytes:
        return self._post(f"{self._machines}/{machine}/start")

    def stop(self, machine: str) -> bytes:
        """Without asking the process, which has nothing to save."""
        return self._post(f"{self._machines}/{machine}/stop", {"signal": "SIGKILL"})

    def suspend(self, machine: str) -> bytes:
        return self._post(f"{self._machines}/{machine}/suspend")

    def exec(self, machine: str, command: Sequence[str], *, timeout_s: int = 0) -> bytes:
        """`timeout_s` 0: the server's own."""
        body = {"command": list(command), "timeout": timeout_s}
        return self._post(f"{self._machines}/{machine}/exec", body)

    def wait(self, machine: str, state: str, *, timeout_s: int = 60) -> bytes:
        return self._get(f"{self._machines}/{machine}/wait?state={state}&timeout={timeout_s}")

    def first_page(self, limit: int) -> bytes:
        return self._get(f"{self._machines}?limit={limit}")

    def logs(self, machine: str) -> bytes:
        return self._get(f"{self._machines}/{machine}/logs?follow=true&tail=0")

    def _get(self, path: str) -> bytes:
        return self.server.request("GET", path)

    def _post(self, path: str, body: Any = None) -> bytes:
        return self.server.request("POST", path, body, headers=_JSON)

    # ── one after another ─────────────────────────────────────────────────────────────────────────────────────

    async def ask(self, request: bytes) -> Answer:
        return await self.connection.ask(request)

    async def stopped(self, machine: str) -> None:
        """Stops a machine and waits until it is."""
        await self.ask(self.stop(machine))
        await self.ask(self.wait(machine, "stopped"))

    async def phases(self, machine: str) -> list[tuple[str, float]] | None:
        """Of the latest start: names with milliseconds from the decision to their end; None if not known."""
        request = self._get(f"{self._machines}/{machine}/phases?limit=1")
        answer = await self.connection.ask(request, expect=(200, 404, 500))
        if answer.status != 200:
            return None
        found = answer.json()
        return [(name, ms) for name, ms in found[0]["phases"]] if found else None

    async def server_settings(self) -> dict[str, Any]:
        """What the server was told; empty where it does not say."""
        answer = await self.connection.ask(self._get("/-/config"), expect=(200, 401, 403, 404))
        return dict(answer.json()) if answer.status == 200 else {}

    async def failure(self, machine: str, verb: str) -> str:
        """Why the latest `verb` of a machine failed, or empty."""
        events = (await self.ask(self._get(f"{self._machines}/{machine}/events?limit=5"))).json()
        for event in events:
            if event["type"] == verb and event["status"] == "failed":
                error = (event.get("request") or {}).get("error") or {}
                return str(error.get("message") or "no reason given")
        return ""

    # ── before and after ──────────────────────────────────────────────────────────────────────────────────────

    async def create_app(self) -> None:
        await self.ask(self._post("/v1/apps", {"app_name": self.app, "org_slug": "personal"}))

    async def import_image(self, archive: bytes) -> None:
        request = self.server.request(
            "POST", "/v1/images/import", archive, headers="content-type: application/x-tar\r\n"
        )
        answer = await self.ask(request)
        last = answer.body.rstrip().rpartition(b"\n")[2]
        if b'"images"' not in last:
            raise BenchError(f"the image could not be imported: {last[:300].decode(errors='replace')}")

    async def create_many(self, count: int, *, memory_mb: int = MEMORY_MB) -> list[str]:
        """Machines that have never been started, ready to be."""
        request = self.create(memory_mb=memory_mb)

        async def one(connection: Connection, _: int) -> str:
            machine = str((await connection.ask(request)).json()["id"])
            await connection.ask(self.wait(machine, "settled"))
            return machine

        return await self.each(range(count), one)

    async def destroy_many(self, machines: Sequence[str]) -> None:
        async def one(connection: Connection, machine: str) -> None:
            path = f"{self._machines}/{machine}"
            await connection.ask(
                self.server.request("DELETE", f"{path}?force=true"), expect=(200, 202, 404, 412)
            )
            await connection.ask(self.wait(machine, "destroyed"), expect=(200, 404))

        await self.each(machines, one)

    async def machine_ids(self) -> list[str]:
        answer = await self.connection.ask(self._get(f"{self._machines}?summary=true"), expect=(200, 404))
        return [machine["id"] for machine in answer.json()] if answer.status == 200 else []

    async def remove_all(self, *, image: bool) -> None:
        """Whatever the run made on this server."""
        await self.destroy_many(await self.machine_ids())
        requests = [self.server.request("DELETE", f"/v1/apps/{self.app}")]
        if image:
            requests.append(self.server.request("DELETE", f"/v1/images?reference={quote(TAG, safe='')}"))
        for request in requests:
            await self.connection.ask(request, expect=(200, 202, 204, 404, 409))

    async def each(self, items: Iterable[Any], job: Callable[[Connection, Any], Awaitable[T]]) -> list[T]:
        """`job` for every item over SETUP_CONNECTIONS connections; results in the order of the items."""
        return await over(self.server, list(items), SETUP_CONNECTIONS, job)


async def over(
    server: Server, items: Sequence[Any], count: int, job: Callable[[Connection, Any], Awaitable[T]]
) -> list[T]:
    """Runs `job` for every item over `count` connections. The first error ends all."""
    results: dict[int, T] = {}
    pending = iter(enumerate(items))

    async def work(connection: Connection) -> None:
        for index, item in pending:
            results[index] = await job(connection, item)

    async with connections(server, min(count, len(items))) as opened:
        try:
            async with asyncio.TaskGroup() as tasks:
                for connection in opened:
                    tasks.create_task(work(connection))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
    return [results[index] for index in range(len(items))]


@asynccontextmanager
async def open_api(server: Server, app: str) -> AsyncIterator[Api]:
    async with await open_connection(server) as connection:
        yield Api(server, app, connection)
