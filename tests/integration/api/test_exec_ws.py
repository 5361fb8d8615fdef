"""Commands over websockets, on a real socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.deadlines import PATIENCE_S

from .conftest import ClientConnection, Live

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def run(socket: ClientConnection) -> tuple[bytes, bytes, dict[str, Any]]:
    """Both outputs and the last message."""
    outputs = {1: b"", 2: b""}
    last: dict[str, Any] = {}
    async for message in socket:
        if isinstance(message, str):
            last = json.loads(message)
        else:
            outputs[message[0]] += message[1:]
    return outputs[1], outputs[2], last


async def test_a_command_runs_and_ends(live: Live) -> None:
    async with live.websocket("/exec/ws") as socket:
        await socket.send(json.dumps({"command": ["echo", "hi"]}))
        stdout, stderr, last = await run(socket)
    assert (stdout, stderr) == (b"hi\n", b"")
    assert last == {"exit_code": 0, "signal": 0, "timed_out": False, "oom_killed": False}
    assert socket.close_code == 1000


async def test_error_output_has_its_own_stream(live: Live) -> None:
    async with live.websocket("/exec/ws") as socket:
        await socket.send(json.dumps({"cmd": "warn careful"}))
        assert (await run(socket))[1] == b"careful\n"


async def test_input_flows_and_ends(live: Live) -> None:
    async with live.websocket("/exec/ws", max_size=None) as socket:
        await socket.send(json.dumps({"command": ["cat"], "stdin": True}))
        for piece in (b"a", b"b" * 1_000_000, b""):
            await socket.send(b"\0" + piece)
        await socket.send(json.dumps({"close_stdin": True}))
        stdout, _, last = await run(socket)
    assert stdout == b"a" + b"b" * 1_000_000
    assert last["exit_code"] == 0


async def test_a_reader_that_stops_holds_up_the_command_and_loses_nothing(live: Live) -> None:
    """More than any buffer between holds: nothing may be dropped, and memory must not take it all."""
    total, piece = 0, b"\0" + b"x" * 65_536
    pieces = 400
    async with live.websocket("/exec/ws", max_queue=1) as socket:
        await socket.send(json.dumps({"command": ["cat"], "stdin": True}))

        async def write() -> None:
            for _ in range(pieces):
                await socket.send(piece)
            await socket.send(json.dumps({"close_stdin": True}))

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            writing = group.create_task(write())
            for _ in range(50):  # let it fill whatever fills, without reading
                await asyncio.sleep(0.01)
            assert not writing.done()
            stdout, _, _ = await run(socket)
            total = len(stdout)
    assert total == pieces * 65_536


async def test_a_terminal_is_resized(live: Live) -> None:
    async with live.websocket("/exec/ws") as socket:
        await socket.send(json.dumps({"command": ["sleep", "60"], "tty": True, "rows": 10, "cols": 20}))
        await socket.send(json.dumps({"resize": {"rows": 50, "cols": 132}}))
        await socket.send(json.dumps({"signal": "SIGINT"}))
        last = (await run(socket))[2]
    assert last["exit_code"] == 130
    assert last["signal"] == 2
    assert live.host.driver.sessions[-1].size == (50, 132)


async def test_a_time_limit(live: Live) -> None:
    async with live.websocket("/exec/ws") as socket:
        await socket.send(json.dumps({"command": ["sleep", "60"], "timeout": 1}))
        assert (await run(socket))[2]["timed_out"] is True


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("{}", "$.command: a command is required"),
        ("[]", "$: expected object, got array"),
        ('{"command": ["a"], "rows": 0}', "$.rows: expected int >= 1"),
        (b"\0x", "expected a text message"),
    ],
)
async def test_a_bad_first_message_is_answered(live: Live, message: str | bytes, text: str) -> None:
    async with live.websocket("/exec/ws") as socket:
        await socket.send(message)
        last = (await run(socket))[2]
    assert text in last["error"]
    assert last["code"] == "invalid_input"


@pytest.mark.parametrize("message", [b"\1out", b"", "{", '{"signal": "SIGFOO"}'])
async def test_a_bad_later_message_is_answered(live: Live, message: str | bytes) -> None:
    async with live.websocket("/exec/ws") as socket:
        await socket.send(json.dumps({"command": ["sleep", "60"]}))
        await socket.send(message)
        assert (await run(socket))[2]["code"] == "invalid_input"


async def test_a_stopped_machine_says_why_not(live: Live) -> None:
    await live.host.exit(live.machine, 0)
    async with live.websocket("/exec/ws") as socket:
        await socket.send(json.dumps({"command": ["true"]}))
        assert (await run(socket))[2]["code"] == "failed_precondition"


async def test_a_client_that_leaves_ends_the_command(live: Live) -> None:
    async with live.websocket("/exec/ws") as socket:
        await socket.send(json.dumps({"command": ["cat"], "stdin": True}))
        await socket.send(b"\0ready")
        assert await socket.recv() == b"\1ready"
    session = live.host.driver.sessions[-1]
    async with asyncio.timeout(PATIENCE_S):
        await session.wait()


async def test_refusals_have_the_usual_status_and_body(live: Live) -> None:
    path = f"/v1/apps/web/machines/{'1' * 14}/exec/ws"
    live.machine = "1" * 14
    with pytest.raises(InvalidStatus) as caught:
        async with live.websocket("/exec/ws"):
            pass
    response = caught.value.response
    assert response.status_code == 404
    assert response.body is not None
    assert json.loads(response.body)["error"] == "machine not found"
    assert response.headers["fly-request-id"]
    plain = await live.http.get(path)
    assert (plain.status_code, plain.text) == (404, "404 page not found\n")


async def test_no_token_no_websocket(live: Live) -> None:
    live.server.token = "mdg_nothing"
    with pytest.raises(InvalidStatus) as caught:
        async with live.websocket("/exec/ws"):
            pass
    assert caught.value.response.status_code == 401


async def test_a_message_over_the_limit_ends_the_connection(live: Live) -> None:
    async with live.websocket("/exec/ws") as socket:
        await socket.send(json.dumps({"command": ["cat"], "stdin": True}))
        with pytest.raises(ConnectionClosed):
            await socket.send(b"\0" * (5 * 1024 * 1024))
            await run(socket)
            raise ConnectionClosed(None, None)
    assert socket.close_code == 1009
