"""The pool's policy, with slots that are nothing but names."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from midge.drivers import warm
from midge.drivers.pool_settings import PoolSettings
from midge.drivers.warm import WarmPool
from midge.errors import DriverError
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio
A, B, C = "abc"


@dataclass
class FakeSlot:
    name: str
    is_usable: bool = True


@dataclass
class Host:
    """Makes and removes slots, and counts them."""

    free: float = 1.0
    costs_mb: dict[str, int] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    made_at: list[float] = field(default_factory=list)  # by the loop's clock
    removed: list[str] = field(default_factory=list)
    error: Exception | None = None
    ending: asyncio.Event | None = None  # how long the end of a slot takes

    async def make(self, key: str) -> FakeSlot:
        if self.error is not None:
            raise self.error
        self.made.append(key)
        self.made_at.append(asyncio.get_running_loop().time())
        return FakeSlot(f"{key}{len(self.made)}")

    async def end(self, slot: FakeSlot) -> None:
        if self.ending is not None:
            await self.ending.wait()
        self.removed.append(slot.name)
        if self.error is not None:
            raise self.error


@contextlib.asynccontextmanager
async def pool(host: Host, **settings: int) -> AsyncIterator[WarmPool[str, FakeSlot]]:
    made: WarmPool[str, FakeSlot] = WarmPool(
        PoolSettings(**{"per_key": 1, "slots_max": 2, "memory_mb": 1000, **settings}),
        make=host.make,
        end=host.end,
        cost_mb=lambda key: host.costs_mb.get(key, 100),
        available_ratio=lambda: host.free,
    )
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0)


async def quiet() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_wanted_slot_is_made_taken_and_made_again() -> None:
    host = Host()
    async with pool(host) as slots:
        assert slots.take(A) is None
        slots.want(A)
        await until(lambda: slots.names() == {"a1"})
        assert slots.take(A) is not None
        await until(lambda: slots.names() == {"a2"})
        assert slots.statistics() == {"ready": 1, "hits": 1, "misses": 1, "keys": 1}
    assert host.removed == ["a2"], "what waits is given up at the end"


async def test_the_least_lately_wanted_makes_room() -> None:
    host = Host()
    async with pool(host) as slots:
        slots.want(A)
        slots.want(B)
        await until(lambda: len(slots.names()) == 2)
        slots.want(C)
        await until(lambda: "c3" in slots.names())
        await quiet()
        assert len(slots.names()) == 2
        assert len(host.removed) == 1 and host.removed[0].startswith("a")


async def test_memory_is_a_limit_and_room_is_made_within_it() -> None:
    host = Host(costs_mb={A: 600, B: 600})
    async with pool(host) as slots:
        slots.want(A)
        await until(slots.names)
        slots.want(B)
        await until(lambda: slots.names() == {"b2"})
        assert host.removed == ["a1"]


async def test_nobody_goes_for_one_that_never_fits() -> None:
    host = Host(costs_mb={C: 5000})
    async with pool(host) as slots:
        slots.want(A)
        slots.want(B)
        await until(lambda: len(slots.names()) == 2)
        slots.want(C)
        await quiet()
        assert (len(host.made), host.removed) == (2, [])


async def test_no_slot_is_made_while_a_start_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "REFILL_PAUSE_S", 0.01)
    now = asyncio.get_running_loop().time
    host = Host()
    async with pool(host) as slots:
        slots.begin_start()
        slots.want(A)
        await quiet()
        assert host.made == []
        ended_at = now()
        slots.end_start()
        await until(slots.names)
        assert host.made_at[0] >= ended_at + warm.REFILL_PAUSE_S, "nor right after it"


async def test_short_memory_gives_slots_up_even_when_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "PRESSURE_LOOK_S", 0.01)
    host = Host()
    async with pool(host) as slots:
        slots.want(A)
        await until(slots.names)
        host.free = 0.05
        await until(lambda: not slots.names())
        slots.want(B)
        await quiet()
        assert host.made == ["a"]


async def test_a_key_nobody_wants_gives_its_slot_back() -> None:
    host = Host()
    async with pool(host) as slots:
        slots.want(A)
        await until(slots.names)
        slots.forget(A)
        await until(lambda: host.removed == ["a1"])


async def test_a_slot_that_cannot_be_removed_does_not_stop_the_keeper() -> None:
    host = Host()
    async with pool(host) as slots:
        slots.want(A)
        await until(slots.names)
        host.error = DriverError("does not die")
        slots.forget(A)
        await until(lambda: host.removed)
        host.error = None
        slots.want(B)
        await until(slots.names)


async def test_a_pool_of_no_slots_is_off() -> None:
    host = Host()
    async with pool(host, slots_max=0) as slots:
        slots.want(A)
        await quiet()
        assert (host.made, slots.statistics()["keys"]) == ([], 0)


async def test_keys_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "KEYS_MAX", 3)
    async with pool(Host()) as slots:
        for index in range(10):
            slots.want(str(index))
        assert slots.statistics()["keys"] == 3


async def test_a_dead_slot_is_not_handed_out_and_is_cleared_away() -> None:
    host = Host()
    async with pool(host) as slots:
        slots.want(A)
        await until(lambda: slots.names() == {"a1"})
        slots._ready[A][0].is_usable = False
        assert slots.take(A) is None
        await until(lambda: host.removed == ["a1"] and slots.names() == {"a2"})


async def test_a_slot_that_is_being_ended_is_ended_before_the_keeper_goes() -> None:
    host = Host(ending=asyncio.Event())
    async with pool(host) as slots:
        slots.want(A)
        await until(slots.names)
        slots.forget(A)
        await until(lambda: not slots.names())
        assert host.ending is not None
        asyncio.get_running_loop().call_later(0.01, host.ending.set)
    assert host.removed == ["a1"]
