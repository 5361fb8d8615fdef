"""A machine that runs behind a shim: what all drivers with a guest init have in common.

Drivers differ in how a guest comes to be; once its init answers, everything is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal

import msgspec

from midge.drivers import shim, shim_files
from midge.drivers.base import ExecExit, ExecRequest, ExecSession
from midge.drivers.rundir import RunRecord
from midge.errors import DriverError, InvalidInput, NotRunning
from midge.guest import messages as m
from midge.guest.channel import GuestChannel
from midge.guest.errors import ChannelLost, GuestRefused
from midge.guest.exec import ExecSession as GuestExec
from midge.machine.spec import ExitStatus

REATTACH_MAX = 5  # times that the connection to a living shim may break before the machine counts as lost
LEFTOVER_TIMEOUT_S = 5.0  # from SIGKILL until a process must be gone
ENDED_WAIT_S = 5.0  # from the kill of VMM or container, or from `quit`, until it and the shim must be gone


class Instance:
    """A running guest. `channel` may be exchanged when it breaks; users take it anew each time."""

    def __init__(self, rundir: Path, channel: GuestChannel, process: shim.ShimProcess | None = None) -> None:
        self.rundir = rundir
        self.channel = channel
        self.process = process
        self._status: ExitStatus | None = None
        self._lock = asyncio.Lock()

    async def wait(self) -> ExitStatus:
        """How the machine ended. Its output is in the log by then."""
        async with self._lock:
            if self._status is None:
                self._status = await self._wait()
            return self._status

    async def _wait(self) -> ExitStatus:
        for _ in range(REATTACH_MAX):
            try:
                return exit_status(await self.channel.wait_exit(), None)
            except ChannelLost:
                pass
            found = shim_files.read_state(self.rundir)
            if found.exit is not None or found.ended is not None:
                return exit_status(found.exit, found.ended)
            if not found.shim_alive:
                return exit_status(None, None)
            await self.channel.aclose()
            with contextlib.suppress(ChannelLost):
                self.channel = await shim.attach(self.rundir)
                await self.channel.hello()
        return exit_status(None, None)

    async def signal(self, signum: int) -> None:
        with contextlib.suppress(ChannelLost):
            await self.channel.signal(signum)

    async def kill(self) -> None:
        """Ends VMM or container; the shim records it."""
        with contextlib.suppress(ChannelLost):
            await self.channel.kill()

    async def end(self, grace_s: float) -> None:
        """After the exit: waits for VMM or container to go, or makes it. Then the shim is gone too."""
        try:
            async with asyncio.timeout(grace_s):
                await self.channel.wait_ended()
        except ChannelLost:
            pass
        except TimeoutError:
            await self.kill()
            with contextlib.suppress(ChannelLost, TimeoutError):
                async with asyncio.timeout(ENDED_WAIT_S):
                    await self.channel.wait_ended()
        await self.channel.quit()
        if self.process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ENDED_WAIT_S):
                    await self.process.wait()
            self.process.kill()
            self.process.release()
        await self.channel.aclose()

    async def detach(self) -> None:
        """Lets go of it; it runs on."""
        await self.channel.aclose()
        if self.process is not None:
            self.process.release()

    def exec(self, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        """Raises: NotRunning: the process has ended."""
        self._check_running()
        return _exec(self.channel, request)

    async def ps(self) -> list[dict[str, Any]]:
        """Raises: NotRunning: the process has ended."""
        self._check_running()
        return [msgspec.to_builtins(process) for process in await self.channel.ps()]

    async def stats(self) -> dict[str, Any]:
        """Raises: NotRunning: the process has ended."""
        self._check_running()
        return await self.channel.stats()

    def _check_running(self) -> None:
        if self._status is not None or self.channel.exit is not None:
            raise NotRunning(f"the process of {self.rundir.name} has ended")


def is_over(record: RunRecord, found: shim_files.ShimState) -> bool:
    """Whether the process of a run may have run and runs no more: the start is not repeated, its exit is reported.

    A guest that vanished without a report counts once it may have been told to run. Before that nothing has happened,
    and the start begins anew.
    """
    if found.exit is not None:
        return True
    return record.told and (found.ended is not None or not found.shim_alive)


def kill_leftover(rundir: Path) -> None:
    """Ends what a run directory says still runs: main process and shim. Waits until both are gone. Blocks.

    Raises:
        DriverError: something survived SIGKILL for LEFTOVER_TIMEOUT_S.
    """
    record = shim_files.read_state(rundir).record
    if record is None:
        return
    for identity in (record.child, record.shim):
        if not identity.kill():
            continue
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(identity.pid)
            try:
                # Readable once the process has ended.
                if not select.select([pidfd], [], [], LEFTOVER_TIMEOUT_S)[0] and identity.is_alive():
                    raise DriverError(f"process {identity.pid} of {rundir} does not die")
            finally:
                os.close(pidfd)


def exit_status(exit_: m.GuestExit | None, ended: m.Ended | None) -> ExitStatus:
    """The guest's report, and failing that the shim's, as the API has it."""
    if exit_ is not None:
        signum = exit_.signal or 0
        code = 128 + signum if signum else (exit_.exit_code if exit_.exit_code is not None else 125)
        return ExitStatus(
            exit_code=code,
            guest_exit_code=code,
            guest_signal=signum or -1,
            oom_killed=exit_.oom_killed,
            error=exit_.error or "",
            exited_at_ns=exit_.received_at_ns,
        )
    if ended is not None:
        signum = ended.signal or 0
        code = 128 + signum if signum else (ended.exit_code if ended.exit_code else 125)
        how = f"signal {signum}" if signum else f"code {ended.exit_code}"
        text = ended.error or f"the machine ended with {how} before its process did"
        return ExitStatus(exit_code=code, signal=signum or -1, error=text, exited_at_ns=ended.ended_at_ns)
    return ExitStatus(exit_code=137, signal=9, error="the machine vanished with its shim")


class _Exec:
    """`midge.drivers.base.ExecSession` on the guest's."""

    def __init__(self, session: GuestExec) -> None:
        self._session = session

    async def write_stdin(self, data: bytes) -> None:
        await self._session.write_stdin(data)

    async def close_stdin(self) -> None:
        await self._session.close_stdin()

    async def resize(self, rows: int, cols: int) -> None:
        await self._session.resize(rows, cols)

    async def signal(self, signum: int) -> None:
        await self._session.signal(signum)

    async def output(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        async for stream, data in self._session:
            yield stream, bytes(data)

    async def wait(self) -> ExecExit:
        ended = await self._session.exit()
        signum = ended.signal or 0
        code = 128 + signum if signum else (ended.exit_code or 0)
        return ExecExit(exit_code=code, signal=signum, timed_out=ended.timed_out, oom_killed=ended.oom_killed)


# As a shell has it, and docker: the command was looked for and not found, or cannot be executed.
_CANNOT_EXECUTE = {"not_found": 127, "not_executable": 126}


class _NotExecuted:
    """A command that the guest could not execute: says so on its stderr and has ended."""

    def __init__(self, refused: GuestRefused) -> None:
        self._refused = refused

    async def write_stdin(self, data: bytes) -> None:
        """Nobody reads it."""

    async def close_stdin(self) -> None:
        """It never was open."""

    async def resize(self, rows: int, cols: int) -> None:
        """It has no terminal."""

    async def signal(self, signum: int) -> None:
        """It has ended."""

    async def output(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        yield "stderr", f"{self._refused.message}\n".encode()

    async def wait(self) -> ExecExit:
        return ExecExit(exit_code=_CANNOT_EXECUTE[self._refused.guest_code])


@contextlib.asynccontextmanager
async def _exec(channel: GuestChannel, request: ExecRequest) -> AsyncIterator[ExecSession]:
    guest_request = m.ExecRequest(
        argv=tuple(request.argv),
        env=request.env,
        user=request.user,
        cwd=request.cwd,
        tty=request.tty,
        rows=request.rows,
        cols=request.cols,
        stdin=request.stdin,
        timeout_ms=None if request.timeout_s is None else int(request.timeout_s * 1000),
    )
    async with contextlib.AsyncExitStack() as stack:
        try:
            session: ExecSession = _Exec(await stack.enter_async_context(channel.exec(guest_request)))
        except GuestRefused as refused:
            if refused.guest_code not in _CANNOT_EXECUTE:
                raise InvalidInput(f"command cannot run: {refused.message}") from refused
            session = _NotExecuted(refused)
        yield session
