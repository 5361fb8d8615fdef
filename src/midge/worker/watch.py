"""Waits for the end of a machine's run, beside everything else its owner does."""

from __future__ import annotations

import asyncio

import structlog

from midge.drivers.base import Driver, Handle
from midge.errors import NotRunning, chain
from midge.machine.spec import ExitStatus
from midge.worker.inbox import Exit, Inbox

_log = structlog.get_logger("midge.worker")


class Watch:
    """At most one run is watched; its exit goes into the owner's inbox."""

    def __init__(self, machine_id: str, driver: Driver, inbox: Inbox) -> None:
        self._id = machine_id
        self._driver = driver
        self._inbox = inbox
        self._task: asyncio.Task[None] | None = None
        self._start_id = ""

    @property
    def active(self) -> bool:
        return self._task is not None

    def begin(self, tasks: asyncio.TaskGroup, handle: Handle) -> None:
        """Watches this run, and no other from now on. Nothing new if it is watched already."""
        if self.active and self._start_id == handle.start_id:
            return
        self.end()
        self._start_id = handle.start_id
        self._task = tasks.create_task(self._wait(handle), name=f"watch {self._id}")

    def end(self) -> None:
        """Stops watching."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _wait(self, handle: Handle) -> None:
        try:
            status = await self._driver.wait(handle)
        except NotRunning:
            return  # an operation has cleared it away and knows how it ended
        except Exception as error:
            _log.error("lost a machine", machine=self._id, error=chain(error))
            status = ExitStatus(exit_code=137, signal=9, error=chain(error))
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self._inbox.poke()
        self._inbox.report(Exit(handle.start_id, status))
