"""TCP connections to machines, carried by websockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from websockets.exceptions import InvalidStatus

from tests.deadlines import PATIENCE_S

from .conftest import Live

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """A port that sends everything back, and ``bye`` after the end of its input."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write(b"bye")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_bytes_go_both_ways(live: Live, echo: int) -> None:
    async with live.websocket(f"/proxy/ws?port={echo}") as socket:
        await socket.send(b"hello")
        assert await socket.recv() == b"hello"
        await socket.send("eof")
        assert await socket.recv() == b"bye"
        assert await socket.recv() == "eof"
        await socket.wait_closed()
    assert socket.close_code == 1000


async def test_a_lot_of_bytes(live: Live, echo: int) -> None:
    size = 8 * 1024 * 1024
    async with asyncio.timeout(PATIENCE_S), live.websocket(f"/proxy/ws?port={echo}") as socket:

        async def write() -> None:
            for _ in range(size // 65_536):
                await socket.send(b"z" * 65_536)
            await socket.send("eof")

        received = 0
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            async for message in socket:
                received += len(message) if isinstance(message, bytes) else 0
    assert received == size + len(b"bye")


async def test_nothing_listens(live: Live, echo: int) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with live.websocket("/proxy/ws?port=1"):
            pass
    assert caught.value.response.status_code == 503
    assert caught.value.response.body is not None
    assert "port 1" in json.loads(caught.value.response.body)["error"]


@pytest.mark.parametrize("query", ["", "?port=0", "?port=65536", "?port=http"])
async def test_bad_ports(live: Live, query: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with live.websocket(f"/proxy/ws{query}"):
            pass
    assert caught.value.response.status_code == 400


async def test_a_stopped_machine_has_no_ports(live: Live, echo: int) -> None:
    await live.host.exit(live.machine, 0)
    with pytest.raises(InvalidStatus) as caught:
        async with live.websocket(f"/proxy/ws?port={echo}"):
            pass
    assert caught.value.response.status_code == 412


async def test_a_client_that_leaves_closes_the_connection(live: Live) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with live.websocket(f"/proxy/ws?port={port}") as socket:
            await socket.send(b"x")
        async with asyncio.timeout(PATIENCE_S):
            await gone.wait()
