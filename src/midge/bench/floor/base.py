"""What a floor is, and which one belongs to a driver."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from midge.bench.errors import CannotMeasure
from midge.bench.target import Target

FLOOR_TIMEOUT_S = 60.0  # one start without Midge


class Floor(Protocol):
    async def once(self) -> dict[str, float]:
        """One start, and its end. Milliseconds by the name of the measurement."""
        ...


def open_floor(target: Target, machine: str) -> AbstractAsyncContextManager[Floor]:
    """The floor of a server of ours, made after the picture of one of its machines, which is running.

    Raises:
        CannotMeasure: this driver has none, or the machine looks different from what is known.
    """
    if target.driver == "container":
        from midge.bench.floor.container import open_container_floor

        return open_container_floor(target, machine)
    if target.driver in ("qemu", "auto"):
        from midge.bench.floor.qemu import open_qemu_floor

        return open_qemu_floor(target, machine)
    raise CannotMeasure(f"there is no floor for the {target.driver} driver")
