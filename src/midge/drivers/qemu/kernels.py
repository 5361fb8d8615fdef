"""Which kernel new guests boot, and a better one that is built while the server runs.

```
 midge kernel build ──► store ──seen by the watch──► templates of all shapes in use ──► current: next starts and slots
```

A start never waits for that: as long as templates of the new kernel are made, machines start from the old ones. A
suspended machine has its kernel in its memory, so it is resumed whichever is current: `others` are those it may have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from midge.errors import MidgeError, chain
from midge.kernel.store import Choice, Kernel, KernelStore

LOOK_S = 15.0  # between two looks into the store; a build takes minutes

_log = structlog.get_logger("midge.qemu")


class Kernels:
    """The kernels of one driver, all with the init of this version. `watch` is its keeper's task."""

    def __init__(self, store: KernelStore, choice: Choice) -> None:
        self._store = store
        self._choice = choice
        self._init: Path | None = None
        self._current: Kernel | None = None
        self._seen = ""  # name of the base that was looked at last, whether it was of use or not
        self.others: list[Kernel] = []

    @property
    def current(self) -> Kernel:
        assert self._current is not None, "open() first"
        return self._current

    @property
    def name(self) -> str:
        """Flavour and version; empty before `open`."""
        return f"{self._current.flavour} {self._current.version}" if self._current else ""

    async def open(self, init: Path) -> None:
        """Raises as `KernelStore.ensure`."""
        self._init = init
        self._seen = await self._store.newest(self._choice)
        self._current = await self._store.ensure(self._choice, init_binary=init)
        self.others = [one for one in await self._store.with_init(init) if one.id != self._current.id]

    async def watch(self, prepare: Callable[[Kernel], Awaitable[None]]) -> None:
        """Changes over to what the store has newer, without end; for good where one kernel was asked for by name.

        Args:
            prepare: makes everything that machines will start from.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look(prepare)

    async def look(self, prepare: Callable[[Kernel], Awaitable[None]]) -> None:
        """One look. What cannot be used is logged, and not tried again."""
        newest = await self._store.newest(self._choice)
        if newest in ("", self._seen):
            return
        self._seen = newest
        try:
            assert self._init is not None, "open() first"
            kernel = await self._store.ensure(self._choice, init_binary=self._init)
            if kernel.id == self.current.id:
                return
            await prepare(kernel)
        except (MidgeError, OSError) as error:
            _log.warning("a new kernel is not used", base=newest, error=chain(error))
            return
        self.others = [self.current, *(one for one in self.others if one.id != kernel.id)]
        self._current = kernel
        _log.info("changed over to another kernel", flavour=kernel.flavour, kernel=kernel.version)
