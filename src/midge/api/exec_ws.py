"""Run a command in a machine over a websocket: streams both ways, terminals, no limit on time or output.

```
 client                                                    server
 text    {"command": [...], "tty": …, "stdin": true, …} ──►          first message: what to run
 binary  0x00 data ──────────────────────────────────────►          standard input
 text    {"resize": {"rows": 50, "cols": 120}} ──────────►          of the terminal
 text    {"signal": "SIGINT"} ───────────────────────────►          to the command
 text    {"close_stdin": true} ──────────────────────────►          end of standard input
                                     ◄──────────────────── 0x01 data  standard output (and everything on a tty)
                                     ◄──────────────────── 0x02 data  standard error
                                     ◄──── {"exit_code": 0, "signal": 0, "timed_out": false, "oom_killed": false}
                                     ◄──── or an error body, {"error": …, "code": …}; then the close
```

Nothing is dropped: a client that does not read stops the command's output, a command that does not read stops the
client's input. Closing the websocket kills the command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from midge.api.call import Call
from midge.api.codec import decode_json
from midge.api.exec import CMD_MAX, command_line
from midge.api.route import Routes
from midge.api.signals import signal_number
from midge.api.targets import host_and_id
from midge.api.websocket import WebSocket
from midge.drivers.base import ExecExit, ExecRequest, ExecSession
from midge.errors import Forbidden, InvalidInput, NotFound, PreconditionFailed

STDIN, STDOUT, STDERR = b"\x00", b"\x01", b"\x02"
DIMENSION_MAX = 4096  # rows or columns of a terminal
TIMEOUT_MAX_S = 7 * 24 * 3600
REQUEST_WAIT_S = 30  # for the first message; a client that connects and says nothing is cut off

Dimension = Annotated[int, Meta(ge=1, le=DIMENSION_MAX)]
Conversation = Callable[[WebSocket], Awaitable[None]]

routes = Routes(tag="Machines", extension=True)


class ExecStart(msgspec.Struct, kw_only=True, frozen=True):
    """The first message. `timeout` in seconds, 0 for none; with `tty`, all output is standard output."""

    command: list[str] | None = None
    cmd: Annotated[str, Meta(max_length=CMD_MAX)] | None = None
    env: dict[str, str] = {}
    user: str | None = None
    cwd: str | None = None
    tty: bool = False
    rows: Dimension = 24
    cols: Dimension = 80
    stdin: bool = False
    timeout: Annotated[int, Meta(ge=0, le=TIMEOUT_MAX_S)] = 0


class Resize(msgspec.Struct, kw_only=True, frozen=True):
    rows: Dimension
    cols: Dimension


class Control(msgspec.Struct, kw_only=True, frozen=True):
    """A later text message; one of the members is there."""

    resize: Resize | None = None
    signal: str | int | None = None
    close_stdin: bool = False


_start_decoder = msgspec.json.Decoder(ExecStart)
_control_decoder = msgspec.json.Decoder(Control)


@routes.websocket(
    "/v1/apps/{app_name}/machines/{machine_id}/exec/ws",
    errors=(InvalidInput, NotFound, Forbidden, PreconditionFailed),
)
async def exec_interactive(call: Call[None, None]) -> Conversation:
    """Run a command with streams both ways.

    Messages: first a JSON text that says what to run; then binary ones whose first byte names the stream (0 input,
    1 output, 2 error output), and JSON texts (`resize`, `signal`, `close_stdin`); the last one has `exit_code`.
    """
    host, machine_id = await host_and_id(call)

    async def converse(socket: WebSocket) -> None:
        request = _request(await _first(socket))
        async with host.exec(machine_id, request) as session:
            ended = await _relay(socket, session)
        await socket.send_json(ended)

    return converse


async def _first(socket: WebSocket) -> ExecStart:
    try:
        async with asyncio.timeout(REQUEST_WAIT_S):
            start: ExecStart = await socket.receive_json(_start_decoder)
            return start
    except TimeoutError as error:
        raise InvalidInput(f"invalid_argument: nothing to run was sent within {REQUEST_WAIT_S} s") from error


def _request(start: ExecStart) -> ExecRequest:
    return ExecRequest(
        argv=command_line(start.cmd, start.command),
        env=start.env,
        user=start.user,
        cwd=start.cwd,
        tty=start.tty,
        rows=start.rows,
        cols=start.cols,
        stdin=start.stdin or start.tty,
        timeout_s=start.timeout or None,
    )


async def _relay(socket: WebSocket, session: ExecSession) -> ExecExit:
    """Both directions until the command has ended.

    Raises:
        WebSocketDisconnect: the client left; leaving the session kills the command.
    """
    output = asyncio.create_task(_output(socket, session))
    inbound = asyncio.create_task(_input(socket, session))
    try:
        await asyncio.wait({output, inbound}, return_when=asyncio.FIRST_COMPLETED)
        if not output.done():
            inbound.result()  # Disconnected, or what was wrong with a message
        await output
        return await session.wait()
    finally:
        for task in (output, inbound):
            task.cancel()
        await asyncio.gather(output, inbound, return_exceptions=True)


async def _output(socket: WebSocket, session: ExecSession) -> None:
    async for stream, data in session.output():
        await socket.send_bytes((STDOUT if stream == "stdout" else STDERR) + data)


async def _input(socket: WebSocket, session: ExecSession) -> None:
    """Ends only by an exception."""
    while True:
        message = await socket.receive()
        if isinstance(message, bytes):
            if message[:1] != STDIN:
                raise InvalidInput(
                    "invalid_argument: a binary message begins with the byte 0, for standard input"
                )
            if len(message) > 1:
                await session.write_stdin(message[1:])
            continue
        control = decode_json(message.encode(), _control_decoder)
        if control.resize is not None:
            await session.resize(control.resize.rows, control.resize.cols)
        if control.signal is not None:
            await session.signal(signal_number(control.signal, field="$.signal"))
        if control.close_stdin:
            await session.close_stdin()
