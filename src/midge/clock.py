"""Time as a seam: code that needs a clock takes one, so that tests own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall clock in nanoseconds since 1970 and a monotonic clock in seconds."""

    def now_ns(self) -> int: ...

    def monotonic(self) -> float: ...


def now_ms(clock: Clock) -> int:
    """Milliseconds since 1970."""
    return clock.now_ns() // 1_000_000


class SystemClock:
    """The host's own clocks."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


def rfc3339(ns: int) -> str:
    """Nanoseconds since 1970 as the API writes times: UTC, whole seconds, ``Z``."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_ms(ns: int) -> str:
    """As `rfc3339`, with milliseconds."""
    moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{ns // 1_000_000 % 1000:03d}Z"


def rfc3339_ns(ns: int) -> str:
    """As `rfc3339`, with nanoseconds."""
    moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{ns % 1_000_000_000:09d}Z"
