"""Things somebody is working with and the garbage collector must leave alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager


class Pins:
    """Digests in use by work under way.

    Collecting and pinning exclude each other (`gate`): whoever pins a digest and then finds its file can rely
    on the file until the pin is gone.
    """

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self.gate = asyncio.Lock()

    @asynccontextmanager
    async def hold(self, digests: Iterable[str]) -> AsyncIterator[None]:
        """Pins digests for the duration of the block; waits for a collection under way."""
        pinned = list(digests)
        async with self.gate:
            self._held.update(pinned)
        try:
            yield
        finally:
            self._held.subtract(pinned)
            self._held += Counter()  # drops what is no longer held

    def __contains__(self, digest: object) -> bool:
        return self._held.get(str(digest), 0) > 0

    def snapshot(self) -> frozenset[str]:
        return frozenset(self._held)
