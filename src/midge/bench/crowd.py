"""Many machines at once: whether all of them make it, and whether it costs more than one after another would."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from midge.bench.context import Context
from midge.bench.stats import percentile

LOAD_NOTE = "p99 × CPUs / (machines × p50 of one alone, by the same way): 1 is as if they had queued"


@dataclass(frozen=True, slots=True)
class One:
    """What became of one machine of the crowd. `error` is empty where all went well."""

    ms: float
    way: str = ""
    error: str = ""


def load(crowd: Sequence[float], single_ms: float, count: int, cpus: int) -> float:
    """How long the slowest took, over what `count` of them cost on `cpus`."""
    return percentile(sorted(crowd), 0.99) * cpus / (count * single_ms)


def record(
    ctx: Context, what: str, found: Sequence[One], alone: dict[str, list[float]], *, note: str = ""
) -> None:
    """Times of those that made it, how many did not, and the load.

    Args:
        what: such as ``started``.
        alone: times of single ones, by way; the load is of the way most of the crowd went.
    """
    count = len(found)
    name = f"{what}, {count} at once"
    ctx.record(name, [one.ms for one in found if not one.error], note=note)
    failed = [one.error for one in found if one.error]
    ctx.record(f"{name}: failed", [float(len(failed))], unit="", note=note)
    if failed:
        ctx.skip(f"{name}: {len(failed)} failed, the first with: {failed[0]}")
    ways = [one.way for one in found if not one.error and alone.get(one.way)]
    if ways:
        way = max(sorted(set(ways)), key=ways.count)
        times = [one.ms for one in found if not one.error and one.way == way]
        single_ms = percentile(sorted(alone[way]), 0.5)
        ctx.record(
            f"{name}: load", [load(times, single_ms, count, os.cpu_count() or 1)], unit="", note=LOAD_NOTE
        )
