"""When the phases of a start ended, also of those whose answers came in one breath.

```
 HELLO CONFIGURE FILE… RUN ─►┌ guest ──────────────────────────────────┐
                             │ handshake │ mounts      │ exec          │─► HELLO_ACK CONFIGURED RUNNING
                             └───────────┴─ took_us ───┴── took_us ────┘
```

One rule: a phase whose answer came by itself ended when it came. Of answers that came together the last did; each one
before it ended as long before as the guest says that the next took. So the ways there and back are the handshake's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from midge.guest import messages as m
from midge.guest.errors import ProtocolError

HANDSHAKE, MOUNTS, EXEC, GUEST = "handshake", "mounts", "exec", "guest"

TOOK_MAX_US = 60_000_000  # as long as a start is waited for; more is no honest figure

# Takes a phase and how many seconds ago it ended.
Mark = Callable[[str, float], None]


def ignore(phase: str, ago_s: float = 0.0) -> None:
    """For who does not want to know of phases."""


class StartPhases:
    """Marks the phases of one start as its answers come."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        # Phases that are not marked yet, and how long the guest says that each took.
        self._open: list[tuple[str, float | None]] = [(HANDSHAKE, None)]
        self._any_marked = False

    def greeted(self, *, alone: bool) -> None:
        """HELLO_ACK came. `alone`: the next answer is not there yet."""
        if alone:
            self._end()

    def answered(self, phase: str, payload: bytes, *, alone: bool) -> None:
        """CONFIGURED or RUNNING came, which end `phase`."""
        self._open.append((phase, took_s(payload)))
        if alone:
            self._end()

    def _end(self) -> None:
        """Marks what is open. Phases that the guest does not tell apart are one, by the name of the last."""
        ends: list[tuple[str, float]] = []
        ago_s = 0.0
        for phase, took in reversed(self._open):
            ends.append((phase, ago_s))
            if took is None:
                break
            ago_s += took
        if ends == [(EXEC, 0.0)] and len(self._open) > 1 and not self._any_marked:
            ends = [(GUEST, 0.0)]
        self._open.clear()
        self._any_marked = True
        for phase, ago_s in reversed(ends):
            self._mark(phase, ago_s)


class _Took(msgspec.Struct):
    took_us: Any = None


def took_s(payload: bytes) -> float | None:
    """How long the guest says that a step took, in seconds; None if it does not say or cannot be believed."""
    try:
        took_us = m.decode(_Took, payload).took_us
    except ProtocolError:
        return None
    if type(took_us) is not int or not 0 <= took_us <= TOOK_MAX_US:
        return None
    return took_us / 1e6
