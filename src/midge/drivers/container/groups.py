"""Control groups of containers: ours with the limits, and those the runtime adds in other hierarchies.

A runtime puts a container into every legacy hierarchy there is (devices, cpuset, systemd's), not only into those Midge
sets limits in, and does not remove them by itself when the container ends.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from midge.cgroup import Cgroup, CgroupTree, Limits
from midge.errors import NotSupported
from midge.machine.spec import MIB, MachineSpec


class Groups:
    """The groups of one driver's machines, by machine id."""

    def __init__(self, tree: CgroupTree, pids_max: int) -> None:
        self._tree = tree
        self._pids_max = pids_max
        self._foreign: list[Path] = []

    def open(self) -> None:
        """Finds the hierarchies, and makes the parents that the runtime would otherwise leave behind for ever."""
        self._foreign = self._find_foreign() if self._tree.version == 1 else []
        for parent in self._foreign:
            parent.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Removes the runtime's parents where no machine is left in them."""
        for parent in self._foreign:
            with suppress(OSError):
                parent.rmdir()

    def path(self, machine_id: str) -> str:
        """Where the runtime is to put the container: the same place in every hierarchy."""
        return f"/{self._tree.parent}/{machine_id}"

    def get(self, machine_id: str) -> Cgroup:
        return self._tree.get(machine_id)

    def thaw(self, machine_id: str) -> None:
        """Lets a group run again. Nothing if it is gone, or was never frozen."""
        thaw(self.get(machine_id))

    async def create(self, spec: MachineSpec) -> Cgroup:
        """A new group with the machine's limits and its counters at zero. Raises: OSError, DeadlineExceeded."""
        await self.remove(spec.machine_id)
        limits = Limits(
            memory_bytes=spec.shape.memory_mb * MIB,
            swap_bytes=spec.swap_mb * MIB,
            cpus=float(spec.shape.cpus),
            pids_max=self._pids_max,
        )
        return self._tree.create(spec.machine_id, limits)

    async def remove(self, machine_id: str) -> None:
        """Kills what is in the group, removes it everywhere. Repeatable. Raises: DeadlineExceeded."""
        group = self._tree.get(machine_id)
        if group.exists():
            await group.kill_all()
            await group.remove()
        self._remove_foreign(machine_id)

    async def sweep(self, known: Collection[str]) -> list[str]:
        """Removes groups of machines that are not known; returns their names."""
        strays = set(await self._tree.sweep(known))
        for parent in self._foreign:
            with suppress(FileNotFoundError):
                strays.update(entry.name for entry in parent.iterdir() if entry.is_dir())
        strays -= set(known)
        for machine_id in strays:
            self._remove_foreign(machine_id)
        return sorted(strays)

    def _remove_foreign(self, machine_id: str) -> None:
        for parent in self._foreign:
            with suppress(FileNotFoundError):
                (parent / machine_id).rmdir()

    def _find_foreign(self) -> list[Path]:
        """Our parent's directory in each hierarchy that the tree does not use."""
        ours = {path.parent for path in self._tree.get("any").paths}
        mounted = {entry.resolve() for entry in self._tree.root.iterdir() if entry.is_dir()}
        hierarchies = (path for path in mounted if (path / "cgroup.procs").exists())
        return sorted(
            path / self._tree.parent for path in hierarchies if path / self._tree.parent not in ours
        )


def thaw(group: Cgroup) -> None:
    """Lets a group run again. Nothing if it is gone, or was never frozen. Raises: OSError."""
    with suppress(FileNotFoundError, NotSupported):
        group.thaw()
