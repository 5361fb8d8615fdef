"""Warm slots: guests made and waiting ahead of the start that takes one, whatever a driver's guests are.

```
 create, stop, start of a machine ──► want(key) ──► keeper: make ──► [slot] ──► take(key)
                                            when no start is under way            │ none
                                                                                  ▼
                                                                       the driver's longer way
```

A key says what a slot is good for, and is the driver's matter: all that has to be the same for a waiting guest to
become a given machine. Keys that were wanted lately are kept, within `slots_max` and `memory_mb`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar

import structlog

from midge.drivers.pool_settings import PoolSettings
from midge.drivers.threads import joined
from midge.errors import MidgeError, chain

KEYS_MAX = 64  # keys remembered; the least lately wanted is forgotten
REFILL_PAUSE_S = (
    0.25  # quiet time after the last start before a slot is made: its process has just begun, too
)
BACKOFF_S = 5.0  # after a slot could not be made
PRESSURE_FREE_RATIO = 0.10  # of the host's memory: with less available no slot is made, and one is given up
PRESSURE_LOOK_S = 5.0  # how often free memory is looked at while slots wait and nothing else happens

_log = structlog.get_logger("midge.warm")


class Slot(Protocol):
    """A guest that waits."""

    @property
    def name(self) -> str:
        """The driver's, unique among all it has on this host."""
        ...

    @property
    def is_usable(self) -> bool:
        """False where it is known to have died meanwhile, or to be out of date. Must not block."""
        ...


K = TypeVar("K", bound=Hashable)
S = TypeVar("S", bound=Slot)


class WarmPool(Generic[K, S]):
    """Waiting guests by key. `run` is its keeper's task.

    Args:
        make: a guest for a key, that waits.
        end: ends and removes a guest that nobody took; MidgeError and OSError are logged.
        cost_mb: private memory of a waiting guest of a key, MiB.
        available_ratio: how much of the host's memory is free, 0 to 1.
    """

    def __init__(
        self,
        settings: PoolSettings,
        *,
        make: Callable[[K], Awaitable[S]],
        end: Callable[[S], Awaitable[None]],
        cost_mb: Callable[[K], int],
        available_ratio: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._make = make
        self._end = end
        self._cost_mb = cost_mb
        self._available_ratio = available_ratio
        self._ready: dict[K, list[S]] = {}
        self._dead: list[S] = []
        self._wanted: OrderedDict[K, None] = OrderedDict()
        self._wake = asyncio.Event()
        self._starts = 0
        self._last_start = 0.0
        self.hits = 0
        self.misses = 0

    def want(self, key: K) -> None:
        """A machine of this key is likely to start soon."""
        if not self.settings.slots_max:
            return
        self._wanted[key] = None
        self._wanted.move_to_end(key)
        while len(self._wanted) > KEYS_MAX:
            self._wanted.popitem(last=False)
        self._wake.set()

    def wanted(self) -> list[K]:
        """The keys that are kept filled, the least lately wanted first."""
        return list(self._wanted)

    def forget(self, key: K) -> None:
        """No machine of this key is left."""
        self._wanted.pop(key, None)
        self._wake.set()

    def take(self, key: K) -> S | None:
        """A waiting guest that is still good, or None. Never waits."""
        slots = self._ready.pop(key, [])
        while slots:
            slot = slots.pop()
            self._wake.set()
            if not slot.is_usable:
                self._dead.append(slot)  # killed by somebody, say; the keeper clears it away
                continue
            if slots:
                self._ready[key] = slots
            self.hits += 1
            return slot
        self.misses += 1
        return None

    def begin_start(self) -> None:
        """A start is under way: the keeper keeps still."""
        self._starts += 1

    def end_start(self) -> None:
        self._starts -= 1
        self._last_start = asyncio.get_running_loop().time()
        self._wake.set()

    def statistics(self) -> dict[str, int]:
        return {"ready": self._count(), "hits": self.hits, "misses": self.misses, "keys": len(self._wanted)}

    def names(self) -> set[str]:
        return {slot.name for slots in [*self._ready.values(), self._dead] for slot in slots}

    async def run(self) -> None:
        """Keeps the wanted keys filled until cancelled; then gives all slots up."""
        try:
            while True:
                await self._quiet()
                self._wake.clear()
                if self._dead:
                    await self._clear(self._dead.pop())
                    continue
                surplus = self._surplus()
                if surplus is not None:
                    await self._give_up(surplus)
                    continue
                key = self._missing()
                if key is None:
                    await self._rest()
                    continue
                await self._fill(key)
        finally:
            waiting = [*self._dead, *(slot for slots in self._ready.values() for slot in slots)]
            self._ready.clear()
            for slot in waiting:
                await self._clear(slot)

    async def _rest(self) -> None:
        """Until somebody wants something; with slots in memory that others may need, not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PRESSURE_LOOK_S if self._ready else None):
                await self._wake.wait()

    async def _quiet(self) -> None:
        """Waits until no start has been under way for a moment."""
        loop = asyncio.get_running_loop()
        while True:
            if self._starts:
                self._wake.clear()
                await self._wake.wait()
                continue
            left_s = self._last_start + REFILL_PAUSE_S - loop.time()
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)

    async def _fill(self, key: K) -> None:
        try:
            slot = await self._make(key)
        except (MidgeError, OSError) as error:
            _log.warning("no warm slot", key=str(key), error=chain(error))
            self._wanted.pop(key, None)
            await asyncio.sleep(BACKOFF_S)
            return
        self._ready.setdefault(key, []).append(slot)

    def _missing(self) -> K | None:
        """The key wanted most lately that lacks a slot there is room for."""
        if self._count() >= self.settings.slots_max or self._available_ratio() < PRESSURE_FREE_RATIO:
            return None
        for key in reversed(self._wanted):
            room_mb = self.settings.memory_mb - self._used_mb()
            if len(self._ready.get(key, ())) < self.settings.per_key and self._cost_mb(key) <= room_mb:
                return key
        return None

    def _surplus(self) -> K | None:
        """A key whose slot has to go: nobody wants it, another is wanted more, or memory is short."""
        for key in self._ready:
            if key not in self._wanted:
                return key
        if self._ready and self._available_ratio() < PRESSURE_FREE_RATIO:
            return self._least()
        newest = next(reversed(self._wanted), None)
        if newest is None or newest in self._ready or not self._ready:
            return None
        cost_mb = self._cost_mb(newest)
        if cost_mb > self.settings.memory_mb:
            return None  # it never fits: nobody else has to go for it
        full = self._count() >= self.settings.slots_max
        return self._least() if full or cost_mb > self.settings.memory_mb - self._used_mb() else None

    def _least(self) -> K:
        return next(key for key in self._wanted if key in self._ready)

    async def _give_up(self, key: K) -> None:
        slots = self._ready[key]
        slot = slots.pop(0)
        if not slots:
            del self._ready[key]
        await self._clear(slot)

    async def _clear(self, slot: S) -> None:
        try:
            # To its end even when the keeper is told to go: nobody else knows of it any more.
            await joined(self._end(slot))
        except (MidgeError, OSError) as error:
            # The next sweep finds it: no machine claims it.
            _log.error("a waiting guest was not removed", slot=slot.name, error=chain(error))

    def _count(self) -> int:
        return sum(len(slots) for slots in self._ready.values())

    def _used_mb(self) -> int:
        return sum(self._cost_mb(key) * len(slots) for key, slots in self._ready.items())
