"""What can go wrong in a benchmark."""

from __future__ import annotations

from midge.errors import MidgeError


class BenchError(MidgeError):
    """A measurement cannot go on: the server answered something else than it should."""

    code = "bench_failed"


class CannotMeasure(BenchError):
    """This benchmark makes no sense here; it is skipped, and the reason is reported."""

    code = "cannot_measure"
