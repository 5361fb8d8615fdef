"""Warm slots: guests restored, warmed with a machine's image and paused, ahead of the start that takes one.

```
 create, stop, start of a machine ──► want(key) ──► keeper: restore · warm · quiesce · pause ──► [slot] ──► take(key)
                                                     when no start is under way                    │ none
                                                                                                   ▼
                                                                                        restore from the template
```

A key is a template and an image. The image's disk is read-only and shared, so a slot has it in place from the
beginning, mounted once already; the writable disk is the slot's own. Nothing has to be exchanged at the start, and no
cache of one image can show up in another. Keys that were wanted lately are kept, within `slots_max` and `memory_mb`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from midge.drivers.qemu.pool_settings import PoolSettings
from midge.drivers.qemu.vm import Vm
from midge.errors import MidgeError, chain

KEYS_MAX = 64  # keys remembered; the least lately wanted is forgotten
REFILL_PAUSE_S = 0.05  # quiet time after the last start before a slot is made
BACKOFF_S = 5.0  # after a slot could not be made
PRESSURE_FREE_RATIO = 0.10  # of the host's memory: with less available no slot is made, and one is given up
PRESSURE_LOOK_S = 5.0  # how often free memory is looked at while slots wait and nothing else happens

_log = structlog.get_logger("midge.qemu")


@dataclass(frozen=True, slots=True)
class SlotKey:
    """What a waiting VM is good for: `template` and the image's digest.

    `kind`: ``guest`` is restored, warmed and paused; ``vmm`` is only a VMM with its files, which has nothing to do but
    restore. It takes a tenth of the work to make, so it is there when starts come quicker than guests are warmed.
    """

    template: str
    image: str
    kind: Literal["guest", "vmm"] = "guest"

    def as_vmm(self) -> SlotKey:
        return SlotKey(self.template, self.image, "vmm")


Make = Callable[[SlotKey], Awaitable[Vm]]


class WarmPool:
    """Waiting VMs by key. `run` is its keeper's task.

    Args:
        make: restores, warms and pauses a guest for a key.
        remove: ends a VM.
        cost_mb: private memory of a waiting guest of a key, MiB.
        available_ratio: how much of the host's memory is free, 0 to 1.
    """

    def __init__(
        self,
        settings: PoolSettings,
        *,
        make: Make,
        remove: Callable[[str], Awaitable[None]],
        cost_mb: Callable[[SlotKey], int],
        available_ratio: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._make = make
        self._remove = remove
        self._cost_mb = cost_mb
        self._available_ratio = available_ratio
        self._ready: dict[SlotKey, list[Vm]] = {}
        self._dead: list[Vm] = []
        self._wanted: OrderedDict[SlotKey, None] = OrderedDict()
        self._wake = asyncio.Event()
        self._starts = 0
        self._last_start = 0.0
        self.hits = 0
        self.misses = 0

    def want(self, key: SlotKey) -> None:
        """A machine of this key is likely to start soon."""
        if not self.settings.slots_max:
            return
        self._wanted[key] = None
        self._wanted.move_to_end(key)
        while len(self._wanted) > KEYS_MAX:
            self._wanted.popitem(last=False)
        self._wake.set()

    def forget(self, key: SlotKey) -> None:
        """No machine of this key is left."""
        self._wanted.pop(key, None)
        self._wake.set()

    def take(self, key: SlotKey) -> Vm | None:
        """A waiting guest that is still alive, or None. Never waits."""
        slots = self._ready.pop(key, [])
        while slots:
            vm = slots.pop()
            self._wake.set()
            if not vm.channel.is_open:
                self._dead.append(vm)  # killed by somebody; the keeper clears it away
                continue
            if slots:
                self._ready[key] = slots
            self.hits += 1
            return vm
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
        return {vm.name for slots in [*self._ready.values(), self._dead] for vm in slots}

    async def run(self) -> None:
        """Keeps the wanted keys filled until cancelled; then gives all slots up."""
        try:
            while True:
                await self._quiet()
                self._wake.clear()
                if self._dead:
                    await self._end(self._dead.pop())
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
            waiting = [*self._dead, *(vm for slots in self._ready.values() for vm in slots)]
            self._ready.clear()
            for vm in waiting:
                await self._end(vm)

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

    async def _fill(self, key: SlotKey) -> None:
        try:
            vm = await self._make(key)
        except (MidgeError, OSError) as error:
            _log.warning("no warm slot", image=key.image, error=chain(error))
            self._wanted.pop(key, None)
            await asyncio.sleep(BACKOFF_S)
            return
        self._ready.setdefault(key, []).append(vm)

    def _missing(self) -> SlotKey | None:
        """The key wanted most lately that lacks a slot there is room for."""
        if self._count() >= self.settings.slots_max or self._available_ratio() < PRESSURE_FREE_RATIO:
            return None
        for key in reversed(self._wanted):
            room_mb = self.settings.memory_mb - self._used_mb()
            if len(self._ready.get(key, ())) < self.settings.per_key and self._cost_mb(key) <= room_mb:
                return key
        return None

    def _surplus(self) -> SlotKey | None:
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

    def _least(self) -> SlotKey:
        return next(key for key in self._wanted if key in self._ready)

    async def _give_up(self, key: SlotKey) -> None:
        slots = self._ready[key]
        vm = slots.pop(0)
        if not slots:
            del self._ready[key]
        await self._end(vm)

    async def _end(self, vm: Vm) -> None:
        vm.vmm.qmp.close()
        try:
            await vm.channel.aclose()
            vm.vmm.process.kill()
            await self._remove(vm.name)
        except (MidgeError, OSError) as error:
            # The next sweep finds it: no machine claims it.
            _log.error("a waiting VM was not removed", vm=vm.name, error=chain(error))
        vm.vmm.process.release()

    def _count(self) -> int:
        return sum(len(slots) for slots in self._ready.values())

    def _used_mb(self) -> int:
        return sum(self._cost_mb(key) * len(slots) for key, slots in self._ready.items())
