"""A directory tree that is written entry by entry by a stranger's orders and never leaves its root.

Every path is split into parent and name. The parent is opened by the kernel with the tree's root as the root
directory (openat2, RESOLVE_IN_ROOT), the name is then only used relative to that handle and never followed.
So there is no moment between check and use, and no string comparison to get wrong.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import OrderedDict
from pathlib import Path
from types import TracebackType

from midge.errors import ImageInvalid
from midge.images.fs import RESOLVE_NO_SYMLINKS, open_in_root
from midge.images.limits import OPEN_PARENTS, ImageLimits, check, exceeded

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
OPAQUE = "trusted.overlay.opaque"


def clean(path: bytes, limits: ImageLimits) -> bytes:
    """A member's path relative to the root, without empty and ``.`` components; ``b""`` is the root.

    Raises:
        ImageInvalid: it contains ``..`` or NUL, or is over a limit. No image builder writes such names.
    """
    check(limits, "path_bytes", len(path), "a path")
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in path:
        raise ImageInvalid(f"the path {show(path)} has a component no image may have")
    check(limits, "path_depth", len(parts), "a path's depth")
    if parts:
        check(limits, "name_bytes", max(map(len, parts)), "a file name")
    return b"/".join(parts)


def show(path: bytes) -> str:
    """A path for a message: escaped and not too long."""
    text = repr(path)[1:]
    return text if len(text) <= 120 else f"{text[:117]}...'"


class Tree:
    """Handles of a tree's directories, and what must happen before something is put in a place that is taken.

    Attributes:
        unlisted: directories made because an entry needed them as its parent.
        implicit: those of them whose mode and owner are up to the lower layers.
    """

    def __init__(self, root_fd: int, limits: ImageLimits) -> None:
        self.root_fd = root_fd
        self._limits = limits
        self._root_name = _name_of(root_fd)
        self._parents: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()
        self._path_bytes = 0
        self._stale = False
        self.unlisted: set[bytes] = {b""}
        self.implicit: set[bytes] = {b""}

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.forget()

    def forget(self) -> None:
        """Closes all cached handles: after a directory or link was replaced they may be wrong."""
        self._stale = False
        for fd, _ in self._parents.values():
            os.close(fd)
        self._parents.clear()

    def count(self, path: bytes) -> None:
        """Accounts for a path that is remembered until the layer is complete."""
        self._path_bytes += len(path)
        if self._path_bytes > self._limits.layer_path_bytes:
            raise exceeded("layer_path_bytes", self._limits.layer_path_bytes, "the paths of a layer")

    def split(self, path: bytes) -> tuple[int, bytes, bytes]:
        """Handle of the parent directory (made if missing), the name in it, and the real path of the entry."""
        if self._stale:
            self.forget()
        parent, _, name = path.rpartition(b"/")
        found = self._parents.get(parent)
        if found is None:
            found = self._open_parent(parent)
            self._parents[parent] = found
            if len(self._parents) > OPEN_PARENTS:
                _, (fd, _) = self._parents.popitem(last=False)
                os.close(fd)
        else:
            self._parents.move_to_end(parent)
        fd, real = found
        real = real + b"/" + name if real else name
        if len(real) > len(path):  # links led deeper than the path looks
            check(self._limits, "path_depth", real.count(b"/") + 1, "a path's depth")
        return fd, name, real

    def open_directory(self, path: bytes) -> int:
        """A new handle of an existing directory; links in the way are followed within the root.

        Raises:
            OSError: it does not exist, is no directory, or is a loop of links.
        """
        return open_in_root(self.root_fd, path or b".", _DIRECTORY, 0)

    def _open_parent(self, parent: bytes) -> tuple[int, bytes]:
        flags = _DIRECTORY
        try:
            return open_in_root(self.root_fd, parent or b".", flags, RESOLVE_NO_SYMLINKS), parent
        except OSError as error:
            if error.errno == errno.ENOENT:
                return self._make_parents(parent)
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        try:
            fd = open_in_root(self.root_fd, parent, flags, 0)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return self._make_parents(parent)
            if error.errno == errno.ELOOP:
                raise ImageInvalid(f"the parent of an entry, {show(parent)}, is not a directory") from error
            raise
        return fd, self._real(fd)

    def _real(self, fd: int) -> bytes:
        """Path of an open directory relative to the root, links resolved; its depth is limited like any path's."""
        name = _name_of(fd)
        return clean(name[len(self._root_name) :], self._limits)

    def _make_parents(self, parent: bytes) -> tuple[int, bytes]:
        """Makes the directories a tar uses without listing them, and remembers that it did."""
        fd, real = os.dup(self.root_fd), b""
        done = b""
        for part in parent.split(b"/"):
            done = done + b"/" + part if done else part
            try:
                next_fd = open_in_root(self.root_fd, done, _DIRECTORY, 0)
                next_real = self._real(next_fd)
            except OSError as error:
                try:
                    next_fd, next_real = self._make_parent(fd, part, real, error)
                finally:
                    os.close(fd)
            else:
                os.close(fd)
            fd, real = next_fd, next_real
        return fd, real

    def _make_parent(self, fd: int, name: bytes, parent: bytes, cause: OSError) -> tuple[int, bytes]:
        """One missing directory, or one in place of a whiteout; anything else cannot be a parent."""
        path = parent + b"/" + name if parent else name
        if cause.errno == errno.ENOENT:
            self.implicit.add(path)
            return self._make_directory(fd, name, path)
        if cause.errno == errno.ENOTDIR and is_whiteout(os.stat(name, dir_fd=fd, follow_symlinks=False)):
            # What the lower layers have of this name stays hidden, so nothing of it is borrowed either.
            self.vacate(fd, name)
            made = self._make_directory(fd, name, path)
            os.setxattr(made[0], OPAQUE, b"y")
            return made
        raise ImageInvalid(f"the parent of an entry, {show(path)}, is not a directory") from cause

    def _make_directory(self, parent_fd: int, name: bytes, path: bytes) -> tuple[int, bytes]:
        check(self._limits, "path_depth", path.count(b"/") + 1, "a path's depth")
        self.count(path)
        try:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
        except FileExistsError as error:
            raise ImageInvalid(f"the parent of an entry, {show(path)}, is a link to nowhere") from error
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        os.fchown(fd, 0, 0)  # a set-group-ID parent would have passed its group on
        os.fchmod(fd, 0o755)
        self.unlisted.add(path)
        return fd, path

    def vacate(self, parent_fd: int, name: bytes) -> None:
        """Removes whatever has this name, a whole directory included."""
        info = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        # Handles opened through what goes away lead nowhere now. `parent_fd` itself is one of them and still
        # in use, so they are closed when the next path comes.
        self._stale = True
        if stat.S_ISDIR(info.st_mode):
            shutil.rmtree(name, dir_fd=parent_fd)
        else:
            os.unlink(name, dir_fd=parent_fd)


def is_whiteout(info: os.stat_result) -> bool:
    """Whether this is overlayfs's mark for "hidden": a character device 0:0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _name_of(fd: int) -> bytes:
    return os.fsencode(Path(f"/proc/self/fd/{fd}").readlink())
