"""Bounds of the pool of warm slots."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Bounds of the pool.

    Attributes:
        per_key: slots kept ready for one key.
        slots_max: of all keys together; 0 turns the pool off.
        memory_mb: of all waiting guests together, by what a guest of the key costs.
    """

    per_key: int = 2
    slots_max: int = 8
    memory_mb: int = 1024
