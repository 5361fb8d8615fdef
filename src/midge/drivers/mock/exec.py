"""Commands in a mock machine: a handful of programs that behave as their namesakes do; any other is not found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

from midge.drivers.base import ExecExit, ExecRequest

STDIN_MAX = 16  # chunks a command has not read yet; then the writer waits

Stream = Literal["stdout", "stderr"]


class MockExec:
    """See `midge.drivers.base.ExecSession`.

    It runs `true`, `false`, `exit N`, ``sh -c "exit N"``, `echo`, `warn` (to stderr), `bytes N`, `pwd`, `env`,
    `stty size`, `cat` and `sleep N [words]`.
    """

    def __init__(self, request: ExecRequest) -> None:
        self._request = request
        self._stdin: asyncio.Queue[bytes] = asyncio.Queue(STDIN_MAX)
        self._stdin_closed = not request.stdin
        self._exit = ExecExit(exit_code=0)
        self._signal: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._begun = False
        self._ended = asyncio.Event()
        self.size = (request.rows, request.cols)

    async def write_stdin(self, data: bytes) -> None:
        if data and not self._stdin_closed and not self._ended.is_set():
            await self._stdin.put(data)

    async def close_stdin(self) -> None:
        if not self._stdin_closed:
            self._stdin_closed = True
            await self._stdin.put(b"")

    async def resize(self, rows: int, cols: int) -> None:
        self.size = (rows, cols)

    async def signal(self, signum: int) -> None:
        if not self._signal.done():
            self._signal.set_result(signum)

    async def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        self._begun = True
        try:
            async for item in self._run():
                yield item
        finally:
            self._ended.set()

    async def wait(self) -> ExecExit:
        if not self._begun:
            async for _ in self.output():
                pass
        await self._ended.wait()
        return self._exit

    async def _run(self) -> AsyncIterator[tuple[Stream, bytes]]:
        argv = self._request.argv
        match argv:
            case ["true", *_]:
                return
            case ["false", *_]:
                self._exit = ExecExit(exit_code=1)
            case ["exit", code]:
                self._exit = ExecExit(exit_code=int(code))
            case ["sh", "-c", script] if script.startswith("exit "):
                self._exit = ExecExit(exit_code=int(script.removeprefix("exit ")))
            case ["echo", *words]:
                yield "stdout", " ".join(words).encode() + b"\n"
            case ["warn", *words]:
                yield "stderr", " ".join(words).encode() + b"\n"
            case ["bytes", count]:
                yield "stdout", b"\xff" * int(count)
            case ["pwd"]:
                yield "stdout", (self._request.cwd or "/").encode() + b"\n"
            case ["env"]:
                yield "stdout", "".join(f"{k}={v}\n" for k, v in self._request.env.items()).encode()
            case ["stty", "size"]:
                yield "stdout", f"{self.size[0]} {self.size[1]}\n".encode()
            case ["cat"]:
                while not (self._stdin_closed and self._stdin.empty()) and (chunk := await self._stdin.get()):
                    yield "stdout", chunk
            case ["sleep", seconds, *words]:
                if words:
                    yield "stdout", " ".join(words).encode() + b"\n"
                await self._sleep(float(seconds))
            case _:
                yield "stderr", f"{argv[0]}: command not found\n".encode()
                self._exit = ExecExit(exit_code=127)

    async def _sleep(self, seconds: float) -> None:
        limit_s = self._request.timeout_s
        try:
            async with asyncio.timeout(seconds if limit_s is None else min(seconds, limit_s)):
                signum = await self._signal
            self._exit = ExecExit(exit_code=128 + signum, signal=signum)
        except TimeoutError:
            if limit_s is not None and limit_s < seconds:
                self._exit = ExecExit(exit_code=137, signal=9, timed_out=True)
