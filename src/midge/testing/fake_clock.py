"""A clock that stands still until a test moves it."""

from __future__ import annotations

NS = 1_000_000_000


class FakeClock:
    """A `midge.clock.Clock`."""

    def __init__(self, now_ns: int = 1_700_000_000 * NS) -> None:
        self._now_ns = now_ns
        self._monotonic_s = 0.0

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        self._now_ns += round(seconds * NS)
        self._monotonic_s += seconds
