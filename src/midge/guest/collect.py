"""Running an exec to its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import msgspec

from midge.guest.errors import ExecEnded
from midge.guest.exec import ExecResult, ExecSession

if TYPE_CHECKING:
    from midge.guest.messages import ExecExit, ExecRequest

# Most output kept of a collected exec, standard output and standard error together.
EXEC_OUTPUT_BYTES_MAX = 4 * 1_048_576
# The guest enforces the time limit; this long after it the host stops waiting for a guest that does not.
EXEC_GRACE_S = 5.0


class CanExec(Protocol):
    def exec(self, request: ExecRequest) -> ExecSession: ...


async def run_exec(
    channel: CanExec, request: ExecRequest, stdin: bytes, *, timeout_s: float, output_max_bytes: int
) -> ExecResult:
    """Runs a process, feeds it and collects what it writes, up to `output_max_bytes`; the rest is thrown away.

    Raises:
        GuestRefused: it could not be started.
        ChannelLost: the channel ended; whether the process ran is unknown.
    """
    request = msgspec.structs.replace(request, stdin=bool(stdin), timeout_ms=max(1, round(timeout_s * 1000)))
    collected = _Collected(output_max_bytes)
    try:
        async with (
            asyncio.timeout(timeout_s + EXEC_GRACE_S),
            channel.exec(request) as session,
            asyncio.TaskGroup() as group,
        ):
            if stdin:
                group.create_task(_feed(session, stdin))
            async for name, data in session:
                collected.add(name, data)
            ended = await session.exit()
    except TimeoutError:
        return collected.result(None)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
    return collected.result(ended)


class _Collected:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self._truncated = False
        self._streams: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    def add(self, name: str, data: bytes) -> None:
        self._truncated = self._truncated or len(data) > self._left
        kept = data[: self._left]
        self._left -= len(kept)
        self._streams[name] += kept

    def result(self, ended: ExecExit | None) -> ExecResult:
        return ExecResult(
            exit_code=None if ended is None else ended.exit_code,
            signal=9 if ended is None else ended.signal,
            stdout=bytes(self._streams["stdout"]),
            stderr=bytes(self._streams["stderr"]),
            truncated=self._truncated,
            timed_out=ended is None or ended.timed_out,
            oom_killed=ended is not None and ended.oom_killed,
        )


async def _feed(session: ExecSession, data: bytes) -> None:
    try:
        await session.write_stdin(data)
        await session.close_stdin()
    except ExecEnded:
        pass  # it did not want all of it
