from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from midge.bench.api import over
from midge.bench.errors import BenchError
from midge.bench.http import Connection, Server, open_connection
from tests.loopback import deaf_port

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[Server]:
    """Every request of a connection gets the next of `answers`, byte by byte."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            for byte in answer:
                writer.write(bytes([byte]))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Server(f"http://127.0.0.1:{port}", "secret")


@pytest.mark.anyio
async def test_answers_are_put_together_from_pieces() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    empty = b"HTTP/1.1 204 No Content\r\n\r\n"
    async with answering(OK, chunked, empty, OK) as server, await open_connection(server) as connection:
        request = server.request("GET", "/")
        bodies = [(await connection.ask(request, expect=(200, 204))).body for _ in range(4)]
    assert bodies == [b"{}", b"abcde", b"", b"{}"]


@pytest.mark.anyio
async def test_another_status_is_an_error_that_says_what_was_asked() -> None:
    refusal = b"HTTP/1.1 409 Conflict\r\nContent-Length: 4\r\n\r\nbusy"
    async with answering(refusal) as server, await open_connection(server) as connection:
        with pytest.raises(BenchError, match="GET /x: 409: busy"):
            await connection.ask(server.request("GET", "/x"))


@pytest.mark.anyio
async def test_a_closed_connection_is_an_error() -> None:
    async with answering() as server, await open_connection(server) as connection:
        with pytest.raises(BenchError, match="closed"):
            await connection.ask(server.request("GET", "/"))


@pytest.mark.anyio
async def test_nobody_listening_is_an_error() -> None:
    with deaf_port() as port, pytest.raises(BenchError, match="no server answers"):
        await open_connection(Server(f"http://127.0.0.1:{port}", "secret"))


@pytest.mark.anyio
async def test_results_are_in_the_order_of_the_items() -> None:
    async def job(connection: Connection, item: int) -> int:
        await connection.ask(server.request("GET", "/"))
        return item * 10

    async with answering(*[OK] * 9) as server:
        assert await over(server, range(9), 3, job) == [item * 10 for item in range(9)]


@pytest.mark.anyio
async def test_one_failure_ends_all() -> None:
    async def job(connection: Connection, item: int) -> int:
        raise BenchError(f"no {item}")

    async with answering() as server:
        with pytest.raises(BenchError, match="no 0"):
            await over(server, range(3), 1, job)


def test_a_request_carries_token_and_length() -> None:
    request = Server("http://[::1]:80/", "t").request("POST", "/x", {"a": 1})
    assert request == (
        b'POST /x HTTP/1.1\r\nhost: [::1]:80\r\nauthorization: Bearer t\r\ncontent-length: 7\r\n\r\n{"a":1}'
    )
