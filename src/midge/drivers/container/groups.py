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
    """The groups of one driver's containers, by the container's name."""

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

    def path(self, name: str) -> str:
        """Where the runtime is to put the container: the same place in every hierarchy."""
        return f"/{self._tree.parent}/{name}"

    def get(self, name: str) -> Cgroup:
        return self._tree.get(name)

    def create(self, name: str) -> Cgroup:
        """A group with its counters at zero, whose limits `limit` sets. Blocks. Raises: OSError, Conflict."""
        return self._tree.create(name, Limits(pids_max=self._pids_max))

    def limit(self, group: Cgroup, spec: MachineSpec) -> None:
        """Sets the machine's limits, whether or not its container runs already. Raises: OSError."""
        limits = Limits(
            memory_bytes=spec.shape.memory_mb * MIB,
            swap_bytes=spec.swap_mb * MIB,
            cpus=float(spec.shape.cpus),
            pids_max=self._pids_max,
        )
        self._tree.update(group, limits)

    async def remove(self, name: str) -> None:
        """Kills what is in the group, removes it everywhere. Repeatable. Raises: DeadlineExceeded."""
        group = self._tree.get(name)
        if group.exists():
            await group.kill_all()
            await group.remove()
        self._remove_foreign(name)

    async def sweep(self, known: Collection[str]) -> list[str]:
        """Removes groups of containers that are not known; returns their names."""
        strays = set(await self._tree.sweep(known))
        for parent in self._foreign:
            with suppress(FileNotFoundError):
                strays.update(entry.name for entry in parent.iterdir() if entry.is_dir())
        strays -= set(known)
        for name in strays:
            self._remove_foreign(name)
        return sorted(strays)

    def _remove_foreign(self, name: str) -> None:
        for parent in self._foreign:
            with suppress(FileNotFoundError):
                (parent / name).rmdir()

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
