"""Statistics of samples. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

# Samples from which on a percentile says more than the largest one does: 1 / (1 - p).
ENOUGH_FOR_P90 = 10
ENOUGH_FOR_P99 = 100


class Summary(msgspec.Struct, kw_only=True, frozen=True):
    """Of at least one sample. Whether there are enough for a percentile is for the reader to see: `n` is there."""

    n: int
    min: float
    p50: float
    p90: float
    p99: float
    max: float
    mean: float


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Of sorted samples, interpolated between the two nearest (Hyndman and Fan's type 7).

    Raises:
        ValueError: no samples, or `fraction` is not within 0 and 1.
    """
    if not ordered:
        raise ValueError("no samples")
    if not 0 <= fraction <= 1:
        raise ValueError(f"no such percentile: {fraction}")
    position = (len(ordered) - 1) * fraction
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def summarize(samples: Sequence[float]) -> Summary:
    """Raises ValueError without samples."""
    ordered = sorted(samples)
    return Summary(
        n=len(ordered),
        min=percentile(ordered, 0),
        p50=percentile(ordered, 0.5),
        p90=percentile(ordered, 0.9),
        p99=percentile(ordered, 0.99),
        max=percentile(ordered, 1),
        mean=math.fsum(ordered) / len(ordered),
    )


def ratio(samples: Sequence[float], floor: Sequence[float]) -> float | None:
    """Median over median, of the same run; None where there is nothing to compare."""
    if not samples or not floor:
        return None
    below = percentile(sorted(floor), 0.5)
    return percentile(sorted(samples), 0.5) / below if below > 0 else None
