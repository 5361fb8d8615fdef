"""Commands in a mock machine: `echo`, `cat`, `sleep`, `exit N`, `true` and `false`; any other is not found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

from midge.drivers.base import ExecExit, ExecRequest

STDIN_MAX = 64  # chunks waiting for `cat`


class MockExec:
    """See `midge.drivers.base.ExecSession`."""

    def __init__(self, request: ExecRequest) -> None:
        self._request = request
        self._stdin: asyncio.Queue[bytes | None] = asyncio.Queue(STDIN_MAX)
        self._killed = asyncio.Event()
        self._exit: ExecExit | None = None

    async def write_stdin(self, data: bytes) -> None:
        await self._stdin.put(data)

    async def close_stdin(self) -> None:
        await self._stdin.put(None)

    async def resize(self, rows: int, cols: int) -> None:
        """A mock terminal has no size."""

    async def signal(self, signum: int) -> None:
        self._exit = ExecExit(exit_code=128 + signum, signal=signum)
        self._killed.set()

    async def output(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        program, *arguments = self._request.argv or [""]
        code = 0
        match program:
            case "echo":
                yield "stdout", (" ".join(arguments) + "\n").encode()
            case "cat":
                while self._request.stdin and (data := await self._stdin.get()) is not None:
                    yield "stdout", data
            case "sleep":
                await self._sleep(float(arguments[0]) if arguments else 0.0)
            case "exit":
                code = int(arguments[0]) if arguments else 0
            case "true":
                pass
            case "false":
                code = 1
            case _:
                yield "stderr", f"{program}: command not found\n".encode()
                code = 127
        self._exit = self._exit or ExecExit(exit_code=code)

    async def _sleep(self, seconds: float) -> None:
        limit_s = self._request.timeout_s
        try:
            async with asyncio.timeout(seconds if limit_s is None else min(seconds, limit_s)):
                await self._killed.wait()
        except TimeoutError:
            if limit_s is not None and limit_s < seconds:
                self._exit = ExecExit(exit_code=137, signal=9, timed_out=True)

    async def wait(self) -> ExecExit:
        if self._exit is None:
            async for _ in self.output():
                pass
        return self._exit or ExecExit(exit_code=0)
