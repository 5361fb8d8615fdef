"""Python's cyclic collector, kept out of the way.

Reference counting frees nearly everything; the collector is for what refers to itself. A full collection looks at every
container there is and stops the process meanwhile: 30 to 90 ms for a server with a thousand running machines, whenever
their number has grown by a quarter. That was the slowest hundredth of all starts.

So what exists once a process is up is not looked at again, and full collections come by the clock. The young
generations are left as they are: 0.2 ms and 2 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator

FULL_INTERVAL_S = 300.0  # what outlived two young collections and refers to itself waits so long for its end
_NEVER = 2**31 - 1  # young collections between two full ones


@contextlib.contextmanager
def no_full_collections() -> Iterator[None]:
    """From now on no full collection comes by itself. To be entered once a process has made what it keeps."""
    young, middle, old = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(young, middle, _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)
        gc.unfreeze()


async def collect_by_the_clock() -> None:
    """A full collection every FULL_INTERVAL_S, for ever."""
    while True:
        await asyncio.sleep(FULL_INTERVAL_S)
        gc.collect()
