"""How long this disk takes to make something durable: every start waits for it, so no figure can be judged without."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import perf_counter

BLOCK_BYTES = 4096  # one page of a journal
SAMPLES = 100


def latency_ms(folder: Path, samples: int = SAMPLES) -> list[float]:
    """Each: write a block behind the last one and fsync. Blocks; raises OSError."""
    block = os.urandom(BLOCK_BYTES)
    found = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(samples):
            begun = perf_counter()
            os.write(file.fileno(), block)
            os.fsync(file.fileno())
            found.append((perf_counter() - begun) * 1000)
    return found
