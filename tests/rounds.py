"""How often tests that repeat something do so."""

from __future__ import annotations

import os


def rounds(usual: int, full: int) -> int:
    """`usual` in `make test`, `full` in `make soak` (which sets MIDGE_SOAK); a number in MIDGE_ROUNDS wins."""
    return int(os.environ.get("MIDGE_ROUNDS") or (full if os.environ.get("MIDGE_SOAK") else usual))
