"""A thread that works on a caller's files is joined, whatever happens to the caller."""

from __future__ import annotations

import asyncio
import threading

import pytest

from midge.drivers.threads import all_of, joined, joined_in_thread
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio


async def test_gives_the_result_or_the_error() -> None:
    assert await joined_in_thread(int, "7") == 7
    with pytest.raises(ValueError, match="x"):
        await joined_in_thread(int, "x")


async def test_cancellation_waits_for_the_thread() -> None:
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(PATIENCE_S)
        done.set()

    task = asyncio.create_task(joined_in_thread(work))
    await asyncio.to_thread(begun.wait, PATIENCE_S)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_work_that_must_not_be_left_half_done_is_done_before_the_cancellation() -> None:
    steps: list[str] = []
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        for step in "ab":
            await asyncio.sleep(0)
            steps.append(step)

    task = asyncio.create_task(joined(work()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["a", "b"]


async def test_of_several_each_comes_to_its_end_before_the_first_error_is_raised() -> None:
    ended: list[str] = []

    async def work(name: str, turns: int, error: Exception | None = None) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        ended.append(name)
        if error is not None:
            raise error

    with pytest.raises(ValueError, match="first"):
        await all_of(work("a", 9), work("b", 5, ValueError("first")), work("c", 1, OSError("second")))
    assert ended == ["c", "b", "a"]
    await all_of(work("d", 1))
