"""Commands for the fake host: a handful of programs that behave as their namesakes do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

from midge.drivers.base import ExecExit, ExecRequest

STDIN_QUEUE_MAX = 16  # chunks a command has not read yet; then the writer waits

Stream = Literal["stdout", "stderr"]


class FakeSession:
    """Runs `true`, `false`, `echo`, `cat`, `env`, `pwd`, `stty size`, `sleep`, ``sh -c "exit N"``; else 127."""

    def __init__(self, request: ExecRequest) -> None:
        self._request = request
        self._stdin: asyncio.Queue[bytes] = asyncio.Queue(STDIN_QUEUE_MAX)
        self._stdin_closed = not request.stdin
        self._exit = ExecExit(exit_code=0)
        self._signal: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self.size = (request.rows, request.cols)
        self.signals: list[int] = []

    async def write_stdin(self, data: bytes) -> None:
        if not self._stdin_closed and not self._ended.is_set():
            await self._stdin.put(data)

    async def close_stdin(self) -> None:
        if not self._stdin_closed:
            self._stdin_closed = True
            await self._stdin.put(b"")

    async def resize(self, rows: int, cols: int) -> None:
        self.size = (rows, cols)

    async def signal(self, signum: int) -> None:
        self.signals.append(signum)
        if not self._signal.done():
            self._signal.set_result(signum)

    async def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        try:
            async for item in self._run():
                yield item
        finally:
            self._ended.set()

    async def wait(self) -> ExecExit:
        await self._ended.wait()
        return self._exit

    async def _run(self) -> AsyncIterator[tuple[Stream, bytes]]:
        argv = self._request.argv
        match argv:
            case ["true", *_]:
                return
            case ["false", *_]:
                self._exit = ExecExit(exit_code=1)
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
            case ["sh", "-c", script] if script.startswith("exit "):
                self._exit = ExecExit(exit_code=int(script.removeprefix("exit ")))
            case ["cat"]:
                while not (self._stdin_closed and self._stdin.empty()) and (chunk := await self._stdin.get()):
                    yield "stdout", chunk
            case ["sleep", seconds, *words]:
                if words:
                    yield "stdout", " ".join(words).encode() + b"\n"
                await self._sleep(float(seconds))
            case _:
                yield "stderr", f"{argv[0]}: not found\n".encode()
                self._exit = ExecExit(exit_code=127)

    async def _sleep(self, seconds: float) -> None:
        limit = self._request.timeout_s
        try:
            async with asyncio.timeout(seconds if limit is None else min(seconds, limit)):
                signum = await self._signal
            self._exit = ExecExit(exit_code=128 + signum, signal=signum)
        except TimeoutError:
            if limit is not None and limit < seconds:
                self._exit = ExecExit(exit_code=137, signal=9, timed_out=True)
