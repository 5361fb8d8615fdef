"""When a machine's process first wrote something: asked of its log when somebody looks, never while it starts.

The shim stamps a record when it reads the output, with the host's clock; so does the worker when it begins a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from midge.logs.reader import LogReader
from midge.worker.trace import FIRST_BYTE

# A process that is silent for longer has printed something, but not as a part of its start.
SILENT_MAX_S = 60.0


async def add_first_bytes(starts: Sequence[dict[str, Any]], log: LogReader) -> list[dict[str, Any]]:
    """The same runs, newest first, each cold start with the phase ``first byte`` where the log still has it."""
    told = []
    next_begun_ns: int | None = None
    for start in starts:
        since_ns = launched_at_ns(start)
        if since_ns is not None:
            until_ns = since_ns + int(SILENT_MAX_S * 1e9)
            record = await log.first(since_ns)
            if record is not None and record.time_ns < min(until_ns, next_begun_ns or until_ns):
                launched_ms = _launched_ms(start["phases"])
                end_ms = round(launched_ms + (record.time_ns - since_ns) / 1e6, 3)
                # A process may be quicker than the answer that it runs.
                phases = sorted([*start["phases"], (FIRST_BYTE, end_ms)], key=lambda phase: phase[1])
                start = {**start, "phases": phases}
        told.append(start)
        next_begun_ns = start.get("started_at_ns") or next_begun_ns
    return told


def launched_at_ns(start: dict[str, Any]) -> int | None:
    """When the driver was asked to start it, in nanoseconds since 1970; None for a run that started no process."""
    begun_ns, phases = start.get("started_at_ns"), start["phases"]
    names = {name for name, _ in phases}
    if not begun_ns or start.get("resumed") or start.get("state", "done") != "done" or "journal" not in names:
        return None
    # The run's own time is taken after the request was admitted.
    admitted_ms = next((ms for name, ms in phases if name == "admission"), 0.0)
    return int(begun_ns + (_launched_ms(phases) - admitted_ms) * 1e6)


def _launched_ms(phases: Sequence[tuple[str, float]]) -> float:
    return max(ms for name, ms in phases if name in ("journal", "retry"))
