"""Run a command in a machine and answer when it has ended. For long or interactive ones see `exec_ws`."""

from __future__ import annotations

import asyncio
import shlex
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from midge.api.call import Call
from midge.api.route import Routes
from midge.api.single import single
from midge.api.targets import host_and_id
from midge.drivers.base import ExecExit, ExecRequest, ExecSession
from midge.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    NotSupported,
    PreconditionFailed,
)

TIMEOUT_DEFAULT_S = 30
TIMEOUT_MAX_S = 60
TIMEOUT_GRACE_S = 5  # for the guest to report that it has ended the command itself
OUTPUT_BYTES_MAX = 4 * 1024 * 1024  # of each of stdout and stderr; what comes after is dropped and said to be
CMD_MAX = 128 * 1024  # characters of `cmd`: what Linux takes as one argument
STDIN_CHUNK_BYTES = 64 * 1024

routes = Routes(tag="Machines")


class ExecBody(msgspec.Struct, kw_only=True, frozen=True):
    """`command` is the argument vector; `cmd`, its older form, is split as a shell would. `timeout` in seconds."""

    cmd: Annotated[str, Meta(max_length=CMD_MAX)] | None = None
    command: list[str] | None = None
    container: str | None = None
    stdin: str | None = None
    timeout: Annotated[int, Meta(ge=0, le=TIMEOUT_MAX_S)] | None = None


class ExecResult(msgspec.Struct, kw_only=True, frozen=True):
    """Bytes that are not UTF-8 come as U+FFFD. `…_truncated` is there when output was dropped."""

    exit_code: int
    exit_signal: int = 0
    stdout: str = ""
    stderr: str = ""
    stdout_truncated: bool | UnsetType = UNSET
    stderr_truncated: bool | UnsetType = UNSET


class _Collector:
    """Keeps the first OUTPUT_BYTES_MAX bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.truncated = False

    def add(self, data: bytes) -> None:
        room = OUTPUT_BYTES_MAX - self._size
        if len(data) > room:
            self.truncated = True
            data = data[:room]
        if data:
            self._parts.append(data)
            self._size += len(data)

    def text(self) -> str:
        return b"".join(self._parts).decode("utf-8", "replace")


@routes.post(
    "/v1/apps/{app_name}/machines/{machine_id}/exec",
    errors=(InvalidInput, NotFound, Forbidden, DeadlineExceeded, PreconditionFailed, NotSupported),
)
async def exec_command(call: Call[None, ExecBody]) -> ExecResult:
    """Run a command. 200 whatever its exit code; 127 when there is no such command."""
    host, machine_id = await host_and_id(call)
    body = call.body
    argv = command_line(body.cmd, body.command)
    if body.container:
        raise NotSupported("containers inside a machine are not supported", hint="leave `container` out")
    timeout_s = body.timeout or TIMEOUT_DEFAULT_S
    request = ExecRequest(argv=argv, stdin=body.stdin is not None, timeout_s=timeout_s)
    stdout, stderr = _Collector(), _Collector()
    try:
        async with asyncio.timeout(timeout_s + TIMEOUT_GRACE_S):
            async with host.exec(machine_id, request) as session:
                ended = await single(_drive(session, body.stdin, stdout, stderr))
    except TimeoutError as error:
        raise _too_long(timeout_s) from error
    if ended.timed_out:
        raise _too_long(timeout_s)
    return ExecResult(
        exit_code=ended.exit_code,
        exit_signal=ended.signal,
        stdout=stdout.text(),
        stderr=stderr.text(),
        stdout_truncated=stdout.truncated or UNSET,
        stderr_truncated=stderr.truncated or UNSET,
    )


async def _drive(session: ExecSession, stdin: str | None, stdout: _Collector, stderr: _Collector) -> ExecExit:
    async with asyncio.TaskGroup() as group:
        feeder = group.create_task(_feed(session, stdin)) if stdin is not None else None
        async for stream, data in session.output():
            (stdout if stream == "stdout" else stderr).add(data)
        ended = await session.wait()
        if feeder is not None:
            feeder.cancel()  # a command may end without reading all of its input
    return ended


async def _feed(session: ExecSession, text: str) -> None:
    data = text.encode()
    for start in range(0, len(data), STDIN_CHUNK_BYTES):
        await session.write_stdin(data[start : start + STDIN_CHUNK_BYTES])
    await session.close_stdin()


def command_line(cmd: str | None, command: list[str] | None) -> list[str]:
    """The argument vector.

    Raises:
        InvalidInput: there is none, or it cannot be split.
    """
    if command:
        argv = command
    else:
        try:
            argv = shlex.split(cmd or "")
        except ValueError as error:
            raise InvalidInput(f"invalid_argument: $.cmd: {str(error).lower()}") from error
    if not argv or not argv[0]:
        raise InvalidInput("invalid_argument: $.command: a command is required", hint='["ls", "-l"]')
    if any("\0" in word for word in argv):
        raise InvalidInput("invalid_argument: $.command: an argument cannot hold a NUL character")
    return argv


def _too_long(timeout_s: int) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"deadline_exceeded: the command did not end within {timeout_s} s and was killed",
        hint=f"`timeout` can be up to {TIMEOUT_MAX_S} s; for longer ones use the websocket exec/ws",
    )
