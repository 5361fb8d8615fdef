"""Bounds of what waits in memory: the pool of warm slots, and the VMs of suspended machines."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedSettings:
    """Bounds of the VMs that suspended machines leave standing, so that a resume soon afterwards need not restore.

    Half of what warm slots may take: a slot is good for any start of its image, a parked VM for one machine.

    Attributes:
        vms_max: of all machines together; 0 ends every VM at its suspend.
        memory_mb: of all of them, guests' memory and the VMMs' own. A machine that is larger is not parked.
        age_s: how long one stands; longer than a burst of requests pauses, shorter than anybody would mind.
    """

    vms_max: int = 4
    memory_mb: int = 512
    age_s: float = 300.0
