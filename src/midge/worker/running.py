"""A worker's task for the time of a context."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from midge.worker.worker import Worker


@contextlib.asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    """The worker's task, recovered. An error that ends it cancels the body, and is raised here."""
    body = asyncio.current_task()
    assert body is not None
    inside = False

    def ended(_: asyncio.Task[None]) -> None:
        if inside:
            body.cancel()

    task = asyncio.create_task(worker.run(), name="worker")
    task.add_done_callback(ended)
    ready = asyncio.create_task(worker.ready.wait(), name="worker ready")
    try:
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            inside = True
            yield
    finally:
        died, inside = inside and task.done(), False
        for one in (ready, task):
            one.cancel()
        await asyncio.wait([ready, task])
        if not task.cancelled() and (error := task.exception()) is not None:
            if died:
                body.uncancel()
            raise _first(error)


def _first(error: BaseException) -> BaseException:
    """What went wrong, without the groups that the tasks put around it: the caller tells a user of it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
