"""A host for tests of the api and of clients: a real worker with the mock driver, and a hand on what happens to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from midge.drivers.base import ExecRequest, ExecSession, Handle
from midge.drivers.mock import MockDriver
from midge.drivers.mock.exec import MockExec
from midge.logs.record import LogRecord, StreamName, format_record
from midge.machine.spec import ExitStatus, MachineSpec
from midge.testing.worker import SETTLED_TIMEOUT_S, running_worker
from midge.worker.host import CreateMachine, MachineView, UpdateMachine
from midge.worker.local import LocalHost
from midge.worker.parts import Settings
from midge.worker.worker import Worker

# What a machine comes to when its process has ended.
_AFTER_EXIT = frozenset({"stopped", "starting", "restarting", "failed", "destroying", "destroyed"})


class HeldDriver(MockDriver):
    """The mock driver. While it is held, preparing and ending a machine wait for `release`.

    Attributes:
        sessions: every exec session, for tests to look at.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.sessions: list[MockExec] = []
        self._gate = asyncio.Event()
        self._gate.set()

    def hold(self) -> None:
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()

    def end(self, handle: Handle, code: int) -> None:
        """The machine's process ends by itself."""
        self._end(handle, ExitStatus(exit_code=code, guest_exit_code=code))

    async def prepare(self, spec: MachineSpec) -> None:
        await self._gate.wait()
        await super().prepare(spec)

    async def signal(self, handle: Handle, signum: int) -> None:
        await self._gate.wait()
        await super().signal(handle, signum)

    async def kill(self, handle: Handle) -> None:
        await self._gate.wait()
        await super().kill(handle)

    async def ps(self, handle: Handle) -> list[dict[str, Any]]:
        (process,) = await super().ps(handle)
        return [{**process, "listen_sockets": [{"proto": "tcp", "address": "0.0.0.0:8080"}]}]

    def exec(self, handle: Handle, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        @asynccontextmanager
        async def run() -> AsyncIterator[ExecSession]:
            session = MockExec(request)
            self.sessions.append(session)
            yield session

        return run()


class StagedHost(LocalHost):
    """The worker's own host, with what a test does to it.

    Attributes:
        fail_next: raised by the next create, update or start.
    """

    def __init__(self, worker: Worker, driver: HeldDriver) -> None:
        super().__init__(worker)
        self.worker = worker
        self.driver = driver
        self.fail_next: Exception | None = None
        self._last_log_ns = 0

    async def exit(self, machine_id: str, code: int) -> None:
        """The machine's process ends by itself. Returns when the worker has taken note of it."""
        catalog = self.worker.parts.catalog
        handle = catalog.get(machine_id).handle
        assert handle is not None, "the machine does not run"
        noted = asyncio.ensure_future(catalog.wait_next(machine_id, _AFTER_EXIT, "", SETTLED_TIMEOUT_S))
        await asyncio.sleep(0)  # so that it waits before there is anything to wait for
        self.driver.end(handle, code)
        await noted

    def print(
        self, machine_id: str, data: bytes, stream: StreamName = "stdout", *, complete: bool = True
    ) -> None:
        """The machine prints a line, or a piece of one."""
        path = self.worker.parts.log_path(machine_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._last_log_ns = max(time.time_ns(), self._last_log_ns + 1)
        record = LogRecord(self._last_log_ns, stream, data, complete)
        with path.open("ab") as file:
            file.write(format_record(record))

    async def create(self, request: CreateMachine) -> MachineView:
        self._maybe_fail()
        return await super().create(request)

    async def update(self, machine_id: str, request: UpdateMachine, *, nonce: str = "") -> MachineView:
        self._maybe_fail()
        return await super().update(machine_id, request, nonce=nonce)

    async def start(self, machine_id: str, **options: Any) -> str:
        self._maybe_fail()
        return await super().start(machine_id, **options)

    def address(self, machine_id: str) -> str:
        """A mock machine has no network: its ports are this host's."""
        super().address(machine_id)
        return "127.0.0.1"

    def _maybe_fail(self) -> None:
        error, self.fail_next = self.fail_next, None
        if error is not None:
            raise error


@asynccontextmanager
async def staged_host(root: Path, *, region: str = "local") -> AsyncIterator[StagedHost]:
    """A host whose machines are kept below `root`: opened there again, it finds them."""
    root.mkdir(parents=True, exist_ok=True)
    driver = HeldDriver(root / "mock")
    settings = Settings(region=region, logs_dir=root / "logs", destroyed_kept_s=600.0)
    async with running_worker(root, driver=driver, settings=settings) as worker:
        yield StagedHost(worker, driver)
