"""Where the time of an operation goes: named phases, counted from the moment the request arrived.

```
 request ──api──► owner ──admission──► table ──journal──► driver ──slot│restore│parked──► claim ──► handshake
                    └ waited: for the operation before                 first byte, from the log ◄── exec ◄── mounts
```

A guest that answers handshake, mounts and exec in one breath (an emulated one does) says how long each took
(`midge.guest.phases`). One that does not say, and one that is resumed, leaves a single phase: ``guest``.

A mark costs one look at the clock. The phases of a run are written with its end; the whole time, which has that write
in it, is only in memory, for whoever counts (`Traces`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

# When the request under way arrived, in seconds of `time.perf_counter`. Set by the api, read when a request is posted.
received_at: ContextVar[float | None] = ContextVar("midge_received_at", default=None)

Phases = Sequence[tuple[str, float]]

TRACES_MAX = 10_000  # ended operations nobody has counted yet; the oldest are forgotten

FIRST_BYTE = "first byte"

# Phases that say by which way a machine came up, as a driver marks them; the last one of a run counts.
WAYS = ("slot", "parked", "restore", "thaw")
COLD = "cold"  # none of them: made from nothing

# Every name a run may mark, in no order. A name that is not here still shows in `events --phases`, but is no label of
# its own in the metrics: those must stay few.
KNOWN = frozenset(
    (
        "api waited admission journal retry image prepare exit grace cleanup save turn spawn claim handshake mounts "
        "exec guest verify bundle launch template jail"
    ).split()
) | {*WAYS, FIRST_BYTE}


class PhaseTrace:
    """Marks the ends of a run's phases, in milliseconds since the request arrived (or since it is known of)."""

    __slots__ = ("_begun", "phases")

    def __init__(self, begun: float | None = None) -> None:
        self._begun = time.perf_counter() if begun is None else begun
        self.phases: list[tuple[str, float]] = []

    def mark(self, phase: str, ago_s: float = 0.0) -> None:
        """A phase has ended now, or some seconds ago: then not before the one marked last, for others say how long."""
        end_ms = self.elapsed_ms() - ago_s * 1000
        last_ms = self.phases[-1][1] if self.phases else 0.0
        self.phases.append((phase, max(round(end_ms, 3), last_ms)))

    def has(self, phase: str) -> bool:
        return any(name == phase for name, _ in self.phases)

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self._begun) * 1000


@dataclass(frozen=True, slots=True)
class Traced:
    """An operation that has ended.

    Attributes:
        operation: its kind; ``resume`` for a start that went on with a snapshot.
        total_ms: from the request's arrival until its end was durable.
    """

    operation: str
    ok: bool
    total_ms: float
    phases: Phases

    @property
    def way(self) -> str:
        return way_of(self.phases)


class Traces:
    """What has ended since somebody last asked. One reader: whoever takes them has them alone."""

    def __init__(self, limit: int = TRACES_MAX) -> None:
        self._kept: deque[Traced] = deque(maxlen=limit)

    def add(self, traced: Traced) -> None:
        self._kept.append(traced)

    def take(self) -> list[Traced]:
        taken = list(self._kept)
        self._kept.clear()
        return taken


def way_of(phases: Phases) -> str:
    """One of WAYS, or COLD."""
    return next((name for name, _ in reversed(phases) if name in WAYS), COLD)


def label_of(phase: str) -> str:
    return phase if phase in KNOWN else "other"
