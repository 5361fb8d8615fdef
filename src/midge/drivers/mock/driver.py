"""The driver's verbs, on order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal

import msgspec

from midge.clock import Clock, SystemClock
from midge.drivers.base import (
    Capabilities,
    ExecRequest,
    ExecSession,
    Handle,
    Recovered,
    Running,
    Trace,
)
from midge.drivers.base import Exited as RecoveredExit
from midge.drivers.base import Lost as RecoveredLost
from midge.drivers.mock import order as orders
from midge.drivers.mock.exec import MockExec
from midge.drivers.mock.host import MockHost, Process, append_output
from midge.drivers.mock.order import Order
from midge.errors import DriverError, NotRunning, SnapshotUnusable, Unrecoverable
from midge.machine.spec import ExitStatus, MachineSpec

SIGKILL = 9
# Signals whose default action is not to end the process.
_HARMLESS = frozenset({17, 18, 23, 28})  # CHLD, CONT, URG, WINCH


class MockDriver:
    """See `midge.drivers.base.Driver`."""

    name = "mock"
    capabilities = Capabilities(suspend="memory")

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self.host = MockHost(root)
        self._clock = clock or SystemClock()
        self._ends: dict[str, asyncio.Future[ExitStatus]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def open(self) -> None:
        self.host.open()

    async def aclose(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def statistics(self) -> dict[str, int]:
        return {}

    async def prepare(self, spec: MachineSpec) -> None:
        order = orders.parse(spec.mock)
        await self._delay(order.prepare_ms)
        self._fail(spec, "prepare", order, order.fail_prepare)
        self.host.prepare(spec.machine_id)

    async def start(self, spec: MachineSpec, trace: Trace) -> Handle:
        running = self.host.read(spec.machine_id)
        handle = Handle(driver=self.name, machine_id=spec.machine_id, start_id=spec.start_id)
        if running is not None and running.start_id == spec.start_id:
            return handle
        self._forget(spec.machine_id)
        order = orders.parse(spec.mock)
        if order.start_ms:
            await self._delay(order.start_ms)
        self._fail(spec, "start", order, order.fail_start)
        now_ns = self._clock.now_ns()
        exit_at_ns = None if order.exit_after_ms is None else now_ns + order.exit_after_ms * 1_000_000
        process = Process(
            start_id=spec.start_id, started_at_ns=now_ns, exit_at_ns=exit_at_ns, order=spec.mock
        )
        self.host.write(spec.machine_id, process)
        if order.output:
            append_output(Path(spec.log_path), now_ns, order.output)
        trace.mark("exec")
        return handle

    async def wait(self, handle: Handle) -> ExitStatus:
        process = self._process(handle)
        if process.ended is not None:
            return msgspec.convert(process.ended, ExitStatus)
        loop = asyncio.get_running_loop()
        future = self._ends.setdefault(handle.machine_id, loop.create_future())
        if process.exit_at_ns is not None and handle.machine_id not in self._timers:
            delay_s = max(0.0, (process.exit_at_ns - self._clock.now_ns()) / 1e9)
            self._timers[handle.machine_id] = loop.call_later(delay_s, self._exit_by_itself, handle)
        return await asyncio.shield(future)

    async def signal(self, handle: Handle, signum: int) -> None:
        handle.check()
        process = self.host.read(handle.machine_id)
        if process is None or process.start_id != handle.start_id or process.ended is not None:
            return
        if signum in _HARMLESS:
            return
        order = orders.parse(process.order)
        if order.ignore_signals and signum != SIGKILL:
            return
        await self._delay(order.stop_ms)
        # A process that handles the signal ends well; SIGKILL cannot be handled.
        code = 128 + SIGKILL if signum == SIGKILL else 0
        guest_signal = SIGKILL if signum == SIGKILL else -1
        self._end(handle, ExitStatus(exit_code=code, guest_exit_code=code, guest_signal=guest_signal))

    async def kill(self, handle: Handle) -> None:
        handle.check()
        self._end(handle, ExitStatus(exit_code=128 + SIGKILL, signal=SIGKILL))

    async def suspend(self, spec: MachineSpec, handle: Handle) -> dict[str, Any]:
        order = orders.parse(spec.mock)
        process = self._running(handle)
        await self._delay(order.suspend_ms)
        if self.host.count_failure(spec.machine_id, "suspend", order.fail_suspend):
            raise DriverError(f"mock machine {spec.machine_id}: suspend fails as ordered")
        self.host.save_snapshot(spec.machine_id, process)
        return {"start_id": process.start_id}

    async def resume(self, spec: MachineSpec, snapshot: dict[str, Any], trace: Trace) -> Handle:
        order = orders.parse(spec.mock)
        handle = Handle(driver=self.name, machine_id=spec.machine_id, start_id=spec.start_id)
        running = self.host.read(spec.machine_id)
        if running is not None and running.start_id == spec.start_id:
            return handle
        await self._delay(order.resume_ms)
        self._fail(spec, "resume", order, order.fail_resume)
        process = self.host.load_snapshot(spec.machine_id)
        if process is None or order.lose_snapshot or process.start_id != snapshot.get("start_id"):
            raise SnapshotUnusable(f"mock machine {spec.machine_id}: the snapshot is gone")
        process.start_id = spec.start_id
        self.host.write(spec.machine_id, process)
        self.host.drop_snapshot(spec.machine_id)
        trace.mark("restore")
        return handle

    async def go_on(self, spec: MachineSpec, handle: Handle, trace: Trace) -> Handle:
        handle.check()
        running = self.host.read(spec.machine_id)
        if running is not None and running.start_id == handle.start_id:
            self.host.drop_snapshot(spec.machine_id)
            return handle
        return await self.resume(spec, {"start_id": handle.start_id}, trace)

    async def discard_snapshot(self, machine_id: str, snapshot: dict[str, Any]) -> None:
        self.host.drop_snapshot(machine_id)

    async def cleanup(self, machine_id: str, handle: Handle | None) -> None:
        self._forget(machine_id)
        self.host.remove(machine_id)

    def _forget(self, machine_id: str) -> None:
        """Of a run that is gone: nobody has to wait for its end any more."""
        timer = self._timers.pop(machine_id, None)
        if timer is not None:
            timer.cancel()
        future = self._ends.pop(machine_id, None)
        if future is not None and not future.done():
            future.set_exception(NotRunning(f"mock machine {machine_id} has been cleared away"))
            future.exception()  # nobody has to be waiting

    async def destroy(self, machine_id: str) -> None:
        await self.cleanup(machine_id, None)
        self.host.drop_snapshot(machine_id)
        self.host.unprepare(machine_id)

    async def recover(self, handle: Handle) -> Recovered:
        handle.check()
        process = self.host.read(handle.machine_id)
        if process is None or process.start_id != handle.start_id:
            return RecoveredLost(reason="no such mock machine")
        if process.ended is not None:
            return RecoveredExit(status=msgspec.convert(process.ended, ExitStatus))
        if process.exit_at_ns is not None and process.exit_at_ns <= self._clock.now_ns():
            return RecoveredExit(status=_own_exit(process))
        return Running(handle=handle)

    async def sweep(self, known: set[str]) -> list[str]:
        stray = self.host.running() - known
        for machine_id in stray:
            self.host.remove(machine_id)
        return sorted(stray)

    def exec(self, handle: Handle, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        self._running(handle)
        return _session(request)

    async def ps(self, handle: Handle) -> list[dict[str, Any]]:
        self._running(handle)
        return [{"pid": 1, "stime": 0, "rtime": 0, "command": "mock", "directory": "/", "cpu": 0, "rss": 0}]

    async def stats(self, handle: Handle) -> dict[str, Any]:
        self._running(handle)
        return {"memory": {"used_bytes": 0}, "cpu": {"used_ns": 0}}

    # ── inner ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _process(self, handle: Handle) -> Process:
        """Raises: NotRunning, HandleUnknown."""
        handle.check()
        process = self.host.read(handle.machine_id)
        if process is None or process.start_id != handle.start_id:
            raise NotRunning(f"mock machine {handle.machine_id} does not run")
        return process

    def _running(self, handle: Handle) -> Process:
        process = self._process(handle)
        if process.ended is not None:
            raise NotRunning(f"mock machine {handle.machine_id} has ended")
        return process

    def _exit_by_itself(self, handle: Handle) -> None:
        self._timers.pop(handle.machine_id, None)
        process = self.host.read(handle.machine_id)
        if process is not None and process.start_id == handle.start_id:
            self._end(handle, _own_exit(process))

    def _end(self, handle: Handle, status: ExitStatus) -> None:
        process = self.host.read(handle.machine_id)
        if process is None or process.start_id != handle.start_id or process.ended is not None:
            return
        full = msgspec.structs.replace(status, exited_at_ns=status.exited_at_ns or self._clock.now_ns())
        process.ended = msgspec.to_builtins(full)
        self.host.write(handle.machine_id, process)
        future = self._ends.pop(handle.machine_id, None)
        if future is not None and not future.done():
            future.set_result(full)

    def _fail(
        self, spec: MachineSpec, verb: Literal["prepare", "start", "resume"], order: Order, n: int
    ) -> None:
        if self.host.count_failure(spec.machine_id, verb, n):
            text = f"mock machine {spec.machine_id}: {verb} fails as ordered"
            raise Unrecoverable(text, kind="user") if order.fail_final else DriverError(text)

    @staticmethod
    async def _delay(ms: int) -> None:
        if ms:
            await asyncio.sleep(ms / 1000)


def _own_exit(process: Process) -> ExitStatus:
    order = orders.parse(process.order)
    code = 128 + order.exit_signal if order.exit_signal else order.exit_code
    return ExitStatus(
        exit_code=code,
        guest_exit_code=code,
        guest_signal=order.exit_signal or -1,
        oom_killed=order.oom_killed,
        exited_at_ns=process.exit_at_ns or 0,
    )


@contextlib.asynccontextmanager
async def _session(request: ExecRequest) -> AsyncIterator[ExecSession]:
    yield MockExec(request)
