"""The collector runs by the clock, and what it is for still works."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from midge import garbage
from midge.garbage import collect_by_the_clock, no_full_collections
from tests.deadlines import PATIENCE_S


class Node:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_there_is_not_looked_at_again() -> None:
    before = gc.get_threshold()
    with no_full_collections():
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > 1_000_000
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


@pytest.mark.anyio
async def test_cycles_that_came_later_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "FULL_INTERVAL_S", 0.001)
    with no_full_collections():
        node = Node()
        gone = asyncio.Event()
        weakref.finalize(node, gone.set)
        del node
        task = asyncio.create_task(collect_by_the_clock())
        async with asyncio.timeout(PATIENCE_S):
            await gone.wait()
        task.cancel()
        await asyncio.wait([task])
