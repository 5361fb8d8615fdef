"""What a snapshot consists of: files, what is under the seal, and how to tell that nobody has written to a file."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from midge.drivers import disks
from midge.drivers.qemu import working_set
from midge.drivers.qemu.launch import Files
from midge.drivers.qemu.vm import VmMaker
from midge.errors import SnapshotUnusable

STATE = "state"
LAYER = "layer"
MEMORY = "memory"
USED = "used"


class What(msgspec.Struct, kw_only=True, frozen=True):
    """What a snapshot fits: the template (kernel, VMM, CPU, shape), the image, and the run it was taken of."""

    template: str
    image: str
    start_id: str

    def difference(self, wanted: What) -> str:
        if self.template != wanted.template:
            return "kernel, VMM, CPU model or shape"
        return "image" if self.image != wanted.image else "run"


class FileIdentity(msgspec.Struct, kw_only=True, frozen=True):
    """A file that nobody has written since. Times in nanoseconds."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        found = path.lstat()
        return cls(
            inode=found.st_ino, size=found.st_size, mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns
        )


class Sealed(msgspec.Struct, kw_only=True, frozen=True):
    """The metadata under the seal. `digest` and `durable_at_ns` are there once the memory is on disk."""

    what: What
    memory: FileIdentity
    layer: FileIdentity
    suspended_at_ns: int
    digest: str = ""
    durable_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Moved:
    """A file of a suspended machine: where its VM had it, where it is now, and that it is the same."""

    home: Path
    path: Path
    identity: FileIdentity

    @classmethod
    def move(cls, home: Path, path: Path) -> Moved:
        """Takes a file from its VM: root's own from now on."""
        home.rename(path)
        os.chown(path, 0, 0)
        return cls(home, path, FileIdentity.of(path))

    def check(self) -> None:
        """Raises: SnapshotUnusable: somebody has written to it, or it is gone."""
        check(self.path, self.identity)

    def back(self, uid: int) -> None:
        """Gives it back to its VM."""
        self.path.rename(self.home)
        os.chown(self.home, uid, uid)


@dataclass(frozen=True, slots=True)
class Kept:
    """A suspended machine's memory and disk, as its VM still has them open."""

    what: What
    memory: Moved
    layer: Moved
    uid: int

    def check(self) -> None:
        self.memory.check()
        self.layer.check()

    def back(self) -> None:
        self.memory.back(self.uid)
        self.layer.back(self.uid)


@dataclass(frozen=True, slots=True)
class Saved:
    """A verified snapshot that a resume has claimed. Its files move to the VM that opens them."""

    folder: Path
    memory: Path
    on_disk: bool

    def open(self, vms: VmMaker, lower: Path, stack: contextlib.ExitStack, name: str, uid: int) -> Files:
        """Gives the files to the VM of that name."""
        memory = vms.memory_on_disk(name) if self.on_disk else vms.memory(name)
        layer = vms.layer(name)
        self.memory.rename(memory)
        (self.folder / LAYER).rename(layer)
        for path in (memory, layer):
            os.chown(path, uid, uid)
        descriptor = disks.opened(stack, os.open(memory, os.O_RDWR | os.O_CLOEXEC))
        if self.on_disk:
            working_set.read_ahead(descriptor, working_set.recorded(self.folder))
        return Files(
            memory=descriptor,
            upper=disks.opened(stack, os.open(layer, os.O_RDWR | os.O_CLOEXEC)),
            lower=disks.opened(stack, disks.read_only(lower)),
            state=disks.opened(stack, disks.read_only(self.folder / STATE)),
        )


def check(path: Path, wanted: FileIdentity) -> None:
    """Raises: SnapshotUnusable: it is gone, or another than this."""
    try:
        found = FileIdentity.of(path)
    except OSError as error:
        raise SnapshotUnusable(f"{path} is gone") from error
    if found != wanted:
        raise SnapshotUnusable(f"{path} has changed since the suspend")
