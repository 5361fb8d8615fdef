"""The benchmarks. A file here with a `BENCHMARK` is one; nothing else has to know of it."""

from __future__ import annotations

import importlib
import pkgutil

from midge.bench.context import Benchmark


def load() -> list[Benchmark]:
    """All of them, sorted by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found: list[Benchmark] = [importlib.import_module(f"{__name__}.{name}").BENCHMARK for name in names]
    return found
