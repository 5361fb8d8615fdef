"""Whose turn it is to restore a guest.

Under emulation a restored guest is translation, which takes a core as long as it lasts. Fifty at once on two cores
would each take fifty times as long and end together, after the last deadline; in turn each is as quick as alone, and
its deadlines begin with its turn. A warm slot and a parked VM have been restored already: they pass by.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from midge.drivers.base import Trace

# Guests under way from restore to their process, for each core this process may use. One would leave the core idle
# while files are copied and the network is set up.
RESTORES_PER_CORE = 2


class RestoreGate:
    """Lets so many through at once, the others in the order they came.

    There is no limit to how many wait, and none to how long: one at most for each machine, which has no memory, network
    or process yet. A wait ends when it is cancelled.
    """

    def __init__(self, at_once: int | None = None) -> None:
        self._turns = asyncio.Semaphore(at_once or RESTORES_PER_CORE * len(os.sched_getaffinity(0)))

    @asynccontextmanager
    async def turn(self, trace: Trace) -> AsyncIterator[None]:
        """Waits for a turn and holds it; marks ``turn`` if there was a wait."""
        waits = self._turns.locked()
        async with self._turns:
            if waits:
                trace.mark("turn")
            yield
