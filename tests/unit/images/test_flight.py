"""Doing things once for many."""

from __future__ import annotations

import asyncio
import threading

import pytest

from midge.errors import Unavailable
from midge.images.flight import Flights, in_thread
from midge.images.progress import Progress
from midge.images.rootfs import crc32c

pytestmark = pytest.mark.anyio


async def test_work_is_done_once_while_under_way_and_again_afterwards() -> None:
    flights, runs = Flights(), 0

    async def work(_: Progress) -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return runs

    assert await asyncio.gather(*(flights.run("key", work) for _ in range(5))) == [1] * 5
    assert await flights.run("key", work) == 2


async def test_different_keys_do_not_meet() -> None:
    flights = Flights()

    async def work(_: Progress) -> object:
        await asyncio.sleep(0)
        return object()

    first, second = await asyncio.gather(flights.run(1, work), flights.run(2, work))
    assert first is not second


async def test_newcomer_waits_for_abandoned_work_to_end() -> None:
    flights, events = Flights(), list[str]()
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(_: Progress) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()
            events.append("abandoned work ended")

    async def fresh(_: Progress) -> None:
        events.append("fresh work began")

    waiter = asyncio.create_task(flights.run("key", slow))
    await started.wait()
    waiter.cancel()
    await asyncio.sleep(0)
    newcomer = asyncio.create_task(flights.run("key", fresh))
    await asyncio.sleep(0)
    release.set()
    await newcomer
    assert events == ["abandoned work ended", "fresh work began"]
    with pytest.raises(asyncio.CancelledError):
        await waiter


async def test_closing_cancels_and_joins() -> None:
    flights, ended = Flights(), asyncio.Event()
    started = asyncio.Event()

    async def work(_: Progress) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiter = asyncio.create_task(flights.run("key", work))
    await started.wait()
    await flights.aclose()
    assert ended.is_set()
    with pytest.raises(Unavailable, match="closing"):
        await waiter
    with pytest.raises(Unavailable, match="closing"):
        await flights.run("key", work)


async def test_cancelled_caller_waits_for_its_thread() -> None:
    running, ended = threading.Event(), threading.Event()

    def work(stop: threading.Event) -> None:
        running.set()
        stop.wait(10)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(running.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_checksum_of_the_superblock() -> None:
    """The check value of CRC-32C, without the final inversion."""
    assert crc32c(b"123456789") == 0xE3069283 ^ 0xFFFFFFFF
