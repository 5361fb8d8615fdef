"""Work that many may want at once and that is done once.

The first caller of a key starts the work, later ones join it; result or error reach all. A caller that is
cancelled leaves without disturbing the others; when the last has left, the work is cancelled.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from midge.errors import Unavailable
from midge.images.progress import Progress, ProgressEvent

T = TypeVar("T")


class Flight:
    """One piece of work under way: who waits for it and who wants to hear of its progress."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.waiters = 0
        self.ending = False
        self.listeners: list[Progress] = []

    def __call__(self, event: ProgressEvent, /) -> None:
        for listener in self.listeners:
            listener(event)


class Flights:
    """All work under way. `aclose` cancels and joins it."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}
        self._closing = False

    async def run(
        self, key: Hashable, work: Callable[[Progress], Awaitable[T]], progress: Progress | None = None
    ) -> T:
        """The result of `work`, done once for all who ask with the same key while it is under way.

        Raises:
            Whatever `work` raises; Unavailable when `aclose` was called.
        """
        while (flight := self._flights.get(key)) is not None and flight.ending:
            # Abandoned by all, but not yet out of its files: a second one must not get in its way.
            assert flight.task is not None
            await asyncio.wait([flight.task])
        if flight is None:
            if self._closing:
                raise _closing()
            flight = self._flights[key] = Flight()
            flight.task = asyncio.create_task(self._fly(key, flight, work))
        assert flight.task is not None
        flight.waiters += 1
        if progress is not None:
            flight.listeners.append(progress)
        try:
            result: T = await asyncio.shield(flight.task)
            return result
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closing and task is not None and not task.cancelling():
                raise _closing() from None  # the work was cancelled, not this caller
            raise
        finally:
            flight.waiters -= 1
            if progress is not None:
                flight.listeners.remove(progress)
            if flight.waiters == 0 and not flight.task.done():
                flight.ending = True
                flight.task.cancel()
                await _join(flight.task)
                self._drop(key, flight)

    async def _fly(self, key: Hashable, flight: Flight, work: Callable[[Progress], Awaitable[T]]) -> T:
        try:
            return await work(flight)
        finally:
            self._drop(key, flight)

    def _drop(self, key: Hashable, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def aclose(self) -> None:
        """Cancels everything under way and waits until it has ended."""
        self._closing = True
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        for flight in self._flights.values():
            flight.ending = True
        for task in tasks:
            task.cancel()
        for task in tasks:
            await _join(task)


def _closing() -> Unavailable:
    return Unavailable("the image store is closing", hint="try again when the worker is back")


async def _join(task: asyncio.Future[Any]) -> None:
    """Waits for the end of cancelled work, however often the waiter itself is cancelled meanwhile."""
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue
    if not task.cancelled():
        task.exception()  # looked at, so that nobody logs it as lost


async def in_thread(function: Callable[[threading.Event], T]) -> T:
    """Runs blocking work in a thread and never returns before it has ended.

    The work gets an event that is set when the caller is cancelled; it should then give up soon.
    """
    stop = threading.Event()
    future = asyncio.get_running_loop().run_in_executor(None, function, stop)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        await _join(future)
        raise
