"""A thread that works on a caller's files is joined, whatever happens to the caller."""

from __future__ import annotations

import asyncio
import threading

import pytest

from midge.drivers.threads import joined_in_thread

pytestmark = pytest.mark.anyio


async def test_gives_the_result_or_the_error() -> None:
    assert await joined_in_thread(int, "7") == 7
    with pytest.raises(ValueError, match="x"):
        await joined_in_thread(int, "x")


async def test_cancellation_waits_for_the_thread() -> None:
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(5)
        done.set()

    task = asyncio.create_task(joined_in_thread(work))
    await asyncio.to_thread(begun.wait, 5)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
