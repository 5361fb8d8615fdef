"""Parked VMs: what suspended machines ran in, stopped and kept for a while, so that a resume has nothing to restore.

```
 suspend ── sealed on disk ──► park ──► [parked] ──► take ──► cont, new session, right clock: milliseconds
                                │ no room   │ too old, too many, memory is short, dead, shutdown; the machine's end
                                ▼           ▼
                              ended: VMM first, then namespace, group, files ──► a resume restores the snapshot
```

Nothing about a snapshot changes: it is complete and sealed on disk before its VM is parked, and a worker that comes
back knows of no parked VM (it has no machine any more, so the sweep ends it). What is spared is a new VMM, and under
software emulation the translation of everything the guest runs.

A parked VM keeps its network slot with the machine's address, its group, its user and its name. Its processors stand
still and its devices take nothing: what comes in waits in the tap's queue, as behind a pulled cable. Whoever wants
the machine's files or address without its VM (a resume from disk, a cold start) has it ended first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from midge.drivers import shim_files
from midge.drivers.instance import Instance
from midge.drivers.pool_settings import ParkedSettings
from midge.drivers.qemu.snapshot_files import Kept
from midge.drivers.warm import PRESSURE_FREE_RATIO, PRESSURE_LOOK_S
from midge.errors import MidgeError, chain
from midge.machine.spec import MIB

_log = structlog.get_logger("midge.qemu")


class Costs(Protocol):
    """What the bounds look at: memory in MiB, and since when it stands."""

    @property
    def cost_mb(self) -> int: ...

    @property
    def since_s(self) -> float: ...


def has_room(cost_mb: int, settings: ParkedSettings, available_ratio: float) -> bool:
    """Whether a VM of this size may be parked at all, others of its kind going where need be. Pure."""
    return settings.vms_max > 0 and cost_mb <= settings.memory_mb and available_ratio >= PRESSURE_FREE_RATIO


def surplus(oldest_first: Iterable[Costs], settings: ParkedSettings, now_s: float, ratio: float) -> int:
    """How many of the oldest have to go. Pure.

    Args:
        ratio: how much of the host's memory is available, 0 to 1.
    """
    left = list(oldest_first)
    count = len(left)
    if ratio < PRESSURE_FREE_RATIO:
        return count
    while left and (
        left[0].since_s + settings.age_s <= now_s
        or len(left) > settings.vms_max
        or sum(vm.cost_mb for vm in left) > settings.memory_mb
    ):
        left.pop(0)
    return count - len(left)


@dataclass(slots=True)
class ParkedVm:
    """A VM whose guest stands still. `kept`: its files; None where its VMM has been ended already."""

    machine_id: str
    name: str
    instance: Instance
    kept: Kept | None
    cost_mb: int = 0
    since_s: float = 0.0

    @property
    def is_alive(self) -> bool:
        found = shim_files.read_state(self.instance.rundir)
        return found.shim_alive and found.child_alive and self.instance.channel.is_open


@dataclass(slots=True)
class _Ending:
    task: asyncio.Task[None]
    vmm_gone: asyncio.Event = field(default_factory=asyncio.Event)


class ParkedVms:
    """The parked VMs of one host, and those that are being ended. `run` is its keeper's task.

    Args:
        end_vmm: ends the process; it has nothing open afterwards.
        remove: gives back everything else.
    """

    def __init__(
        self,
        settings: ParkedSettings,
        *,
        end_vmm: Callable[[ParkedVm], Awaitable[None]],
        remove: Callable[[ParkedVm], Awaitable[None]],
        available_ratio: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._end_vmm = end_vmm
        self._remove = remove
        self._available_ratio = available_ratio
        self._parked: OrderedDict[str, ParkedVm] = OrderedDict()
        self._ending: dict[str, _Ending] = {}
        self._wake = asyncio.Event()
        self.resumed = 0
        self.evicted = 0

    def has_room(self, cost_mb: int) -> bool:
        return has_room(cost_mb, self._settings, self._available_ratio())

    def park(self, vm: ParkedVm) -> None:
        """Keeps a VM that `has_room` was asked about; older ones go for it."""
        vm.since_s = asyncio.get_running_loop().time()
        self._parked[vm.machine_id] = vm
        self._wake.set()
        self._evict()

    def take(self, machine_id: str) -> ParkedVm | None:
        """The machine's VM, for its resume. One that has died meanwhile is ended instead."""
        vm = self._parked.pop(machine_id, None)
        if vm is None:
            return None
        if not vm.is_alive:
            self.end(vm)
            return None
        self.resumed += 1
        return vm

    def end(self, vm: ParkedVm) -> None:
        """Ends a VM that is not parked, or no more, in its own time."""
        ending = _Ending(asyncio.create_task(self._end(vm), name=f"end {vm.name}"))
        self._ending[vm.machine_id] = ending

    async def vmm_gone(self, machine_id: str) -> None:
        """Ends the machine's parked VM if there is one; nothing has its files open when this returns."""
        self._drop(machine_id)
        if (ending := self._ending.get(machine_id)) is not None:
            await ending.vmm_gone.wait()

    async def gone(self, machine_id: str) -> None:
        """The same, and nothing holds its address any more either."""
        self._drop(machine_id)
        if (ending := self._ending.get(machine_id)) is not None:
            await asyncio.wait([ending.task])

    def names(self) -> set[str]:
        return {vm.name for vm in self._parked.values()}

    def statistics(self) -> dict[str, int]:
        """How many, what they take (MiB), how many were resumed and how many given up."""
        return {
            "parked": len(self._parked),
            "memory_mb": sum(vm.cost_mb for vm in self._parked.values()),
            "resumed": self.resumed,
            "evicted": self.evicted,
        }

    async def run(self) -> None:
        """Keeps the bounds until cancelled."""
        while True:
            self._wake.clear()
            if not self._parked:
                await self._wake.wait()
            await asyncio.sleep(min(PRESSURE_LOOK_S, self._settings.age_s))
            self._evict()

    async def aclose(self) -> None:
        """Ends them all and waits for it: their machines are on disk."""
        for machine_id in list(self._parked):
            self._drop(machine_id)
        if ending := [one.task for one in self._ending.values()]:
            await asyncio.wait(ending)

    def _evict(self) -> None:
        now_s = asyncio.get_running_loop().time()
        count = surplus(self._parked.values(), self._settings, now_s, self._available_ratio())
        dead = [vm.machine_id for vm in self._parked.values() if not vm.is_alive]
        for machine_id in {*list(self._parked)[:count], *dead}:
            self.evicted += 1
            self._drop(machine_id)

    def _drop(self, machine_id: str) -> None:
        if (vm := self._parked.pop(machine_id, None)) is not None:
            self.end(vm)

    async def _end(self, vm: ParkedVm) -> None:
        try:
            await self._end_vmm(vm)
            self._ending[vm.machine_id].vmm_gone.set()
            await self._remove(vm)
        except (MidgeError, OSError) as error:
            # The next sweep finds it: no machine claims it.
            _log.error("a VM was not removed", vm=vm.name, error=chain(error))
        finally:
            self._ending.pop(vm.machine_id).vmm_gone.set()


def cost_mb(memory: Path, vmm_pid: int) -> int:
    """What a stopped VM holds: its guest's memory as far as it was touched, and the VMM's own. MiB."""
    own_kb = 0
    try:
        for line in Path(f"/proc/{vmm_pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                own_kb = int(line.split()[1])
    except FileNotFoundError:
        pass  # it has ended: whoever asks will see
    return memory.stat().st_blocks * 512 // MIB + own_kb // 1024
