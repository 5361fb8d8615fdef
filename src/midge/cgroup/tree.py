"""The control groups of one instance: all below one parent, in whatever hierarchy the host has.

::

    v2   <root>/<parent>/<name>                   every controller in one directory
    v1   <root>/<controller>/<parent>/<name>      one directory for each controller; hybrid hosts count as v1
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Literal

from midge.cgroup.files import write_control
from midge.cgroup.group import Cgroup
from midge.cgroup.limits import Controller, Limits, Setting, settings_v1, settings_v2
from midge.errors import Conflict, InvalidInput, NotSupported

CGROUP_ROOT = Path("/sys/fs/cgroup")

# Names of v1 hierarchies for our controllers, and the controllers that v2 must be asked to enable.
_V1_NAMES: dict[Controller, str] = {
    "memory": "memory",
    "cpu": "cpu",
    "cpuacct": "cpuacct",
    "pids": "pids",
    "io": "blkio",
    "freezer": "freezer",
}
_V2_ENABLED: tuple[Controller, ...] = ("memory", "cpu", "pids", "io")
# v2 counts processor time and freezes in every group, with no controller enabled.
_V2_ALWAYS: tuple[Controller, ...] = ("cpuacct", "freezer")


class CgroupTree:
    """Makes, finds and sweeps the groups of one instance.

    The constructor looks at nothing; `open` finds out what the host has.
    """

    def __init__(self, root: Path = CGROUP_ROOT, *, parent: str) -> None:
        if not parent or ".." in Path(parent).parts or Path(parent).is_absolute():
            raise InvalidInput(f"cgroup parent {parent!r} is not a relative path")
        self.root = root
        self.parent = parent
        self._version: Literal[1, 2] = 2
        self._parents: dict[Controller, Path] = {}

    @property
    def version(self) -> Literal[1, 2]:
        return self._version

    @property
    def controllers(self) -> frozenset[Controller]:
        """What groups of this tree can limit, measure or do; empty before `open`."""
        return frozenset(self._parents)

    def open(self) -> None:
        """Finds the hierarchies and makes the parent. Raises: NotSupported without cgroups or write access."""
        try:
            if (self.root / "cgroup.controllers").exists():
                self._version, self._parents = 2, self._open_v2()
            else:
                self._version, self._parents = 1, self._open_v1()
        except PermissionError as error:
            raise NotSupported(
                f"cgroups under {self.root} are not writable",
                hint="run midge as root, or delegate a cgroup to it",
            ) from error
        if not self._parents:
            raise NotSupported(f"no cgroup hierarchy under {self.root}", hint="mount cgroup2 there")

    def create(self, name: str, limits: Limits) -> Cgroup:
        """Makes a group with these limits; an existing empty one gets them too, so that a step can be repeated.

        Limits whose controller the host lacks are left out: see `controllers`. Raises: Conflict if processes are
        in it; OSError.
        """
        group = self.get(name)
        if group.pids():
            raise Conflict(f"cgroup {name} exists and has processes", hint="kill_all and remove it first")
        for path in group.paths:
            path.mkdir(exist_ok=True)
        self.update(group, limits)
        return group

    def update(self, group: Cgroup, limits: Limits) -> None:
        """Sets limits of a group with processes in it. Raises: OSError; EBUSY if more memory is in use."""
        settings = settings_v2(limits) if self._version == 2 else settings_v1(limits)
        for setting in settings:
            if setting.controller in group.directories:
                _write(group.directories[setting.controller], setting)

    def get(self, name: str) -> Cgroup:
        """Handle on a group, whether or not it exists. Raises: InvalidInput."""
        if not name or "/" in name or name.startswith("."):
            raise InvalidInput(f"not a name for a cgroup: {name!r}")
        if not self._parents:
            raise NotSupported("the cgroup tree is not open")
        return Cgroup(name, self._version, {key: path / name for key, path in self._parents.items()})

    def names(self) -> list[str]:
        """All groups that exist in any hierarchy, sorted."""
        found: set[str] = set()
        for parent in set(self._parents.values()):
            with suppress(FileNotFoundError):
                found.update(entry.name for entry in parent.iterdir() if entry.is_dir())
        return sorted(found)

    async def sweep(self, known: Collection[str]) -> list[str]:
        """Kills and removes every group that is not known; returns their names. Raises: DeadlineExceeded."""
        strays = [name for name in self.names() if name not in set(known)]
        for name in strays:
            group = self.get(name)
            await group.kill_all()
            await group.remove()
        return strays

    def close(self) -> None:
        """Removes the parent if it is empty; machines' groups stay. Idempotent."""
        for parent in set(self._parents.values()):
            with suppress(OSError):
                parent.rmdir()

    def _open_v2(self) -> dict[Controller, Path]:
        directory = self.root
        available = (directory / "cgroup.controllers").read_text().split()
        enabled = [controller for controller in _V2_ENABLED if controller in available]
        for part in (*Path(self.parent).parts, ""):
            enabled = [controller for controller in enabled if _enable(directory, controller)]
            if part:
                directory = directory / part
                directory.mkdir(exist_ok=True)
        return dict.fromkeys((*enabled, *_V2_ALWAYS), directory)

    def _open_v1(self) -> dict[Controller, Path]:
        parents: dict[Controller, Path] = {}
        for controller, name in _V1_NAMES.items():
            hierarchy = self._find_v1(name)
            if hierarchy is not None:
                parents[controller] = hierarchy / self.parent
                parents[controller].mkdir(parents=True, exist_ok=True)
        return parents

    def _find_v1(self, name: str) -> Path | None:
        """A controller's hierarchy, which may be mounted under several names at once: ``cpu,cpuacct``."""
        with suppress(FileNotFoundError):
            for entry in sorted(self.root.iterdir()):
                if name in entry.name.split(",") and (entry / "cgroup.procs").exists():
                    return entry.resolve()
        return None


def _enable(directory: Path, controller: Controller) -> bool:
    """Hands a v2 controller on to the groups below; False where this directory may not."""
    control = directory / "cgroup.subtree_control"
    if controller in control.read_text().split():
        return True
    try:
        write_control(control, f"+{controller}")
    except OSError as error:
        # EBUSY: processes live in this very directory; ENOENT, EINVAL: the parent does not hand it on.
        if error.errno in (errno.EBUSY, errno.ENOENT, errno.EINVAL, errno.ENOTSUP):
            return False
        raise
    return True


def _write(directory: Path, setting: Setting) -> None:
    path = directory / setting.file
    if setting.optional and not path.exists():
        return
    try:
        write_control(path, setting.value)
    except OSError as error:
        if setting.optional and error.errno in (errno.ENOTSUP, errno.EINVAL):
            return
        raise
