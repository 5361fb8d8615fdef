"""Points within a suspend and a resume at which a worker can end; and a worker of its own process that does."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from midge.drivers import seal
from midge.drivers.qemu import boot, saving
from midge.drivers.qemu.residents import Residents
from midge.drivers.qemu.snapshot import Snapshots
from midge.drivers.qemu.suspend import Suspending
from midge.drivers.qemu.vm import VmMaker

# Where: an object, the name of its coroutine function, and whether it is reached before or after its call. The first
# word says what is under way; a parked VM is there only for the worker that has parked it.
POINTS: dict[str, tuple[Any, str, Literal["before", "after"]]] = {
    "suspend: guest is quiet": (boot, "save_state", "before"),
    "suspend: state is saved": (boot, "save_state", "after"),
    "suspend: files are taken": (seal, "seal", "before"),
    "suspend: sealed": (seal, "seal", "after"),
    "suspend: left": (Suspending, "_leave", "after"),
    "resume: claimed": (Snapshots, "claim", "after"),
    "resume: restored": (VmMaker, "restore", "after"),
    "resume: linked": (Residents, "claim", "after"),
    "resume: awake": (saving, "wake", "after"),
    "unpark: claimed": (Snapshots, "claim_held", "after"),
    "unpark: linked": (Suspending, "_claim_parked", "after"),
    "unpark: awake": (saving, "wake", "after"),
}
SUSPEND_POINTS = [point for point in POINTS if point.startswith("suspend")]


def arm(point: str, act: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Has `act` awaited when the point is reached; returns what disarms it."""
    place, name, when = POINTS[point]
    original = getattr(place, name)

    @functools.wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            await act()
        result = await original(*args, **kwargs)
        if when == "after":
            await act()
        return result

    setattr(place, name, wrapped)
    return lambda: setattr(place, name, original)


async def _main(home: Path, machine: str, point: str, parked: int) -> None:
    from tests.integration.qemu.house import House

    async def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    house = House(home, parked=parked)
    await house.open()
    if point.startswith("unpark"):
        await house.suspend(machine)
    arm(point, die)
    if point.startswith("suspend"):
        await house.suspend(machine)
    else:
        await house.host.start(machine)
    await house.aclose()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
