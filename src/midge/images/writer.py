"""Puts the members of a layer's tar into a `Tree`, one kind after the other."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from midge.errors import ImageInvalid
from midge.images import metadata
from midge.images.fs import RESOLVE_NO_SYMLINKS, open_in_root
from midge.images.limits import ImageLimits
from midge.images.tar import Member
from midge.images.tree import OPAQUE, Tree, clean, is_whiteout, show

WHITEOUT_PREFIX: Final = b".wh."
_OPAQUE_MARK = b".wh..wh..opq"
_AUFS_PREFIX = b".wh..wh."

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LayerWriter:
    """Applies members in order. Directory times come last (`finish`): every new entry changes them."""

    def __init__(self, tree: Tree, limits: ImageLimits) -> None:
        self._tree = tree
        self._limits = limits
        self._directory_times: dict[bytes, int] = {}
        self.whiteouts = 0
        self.dropped_devices = 0
        self.root_opaque = False

    def put(self, path: bytes, member: Member, data: Iterator[bytes]) -> None:
        """Makes one entry at a cleaned path.

        Raises:
            ImageInvalid: the entry is hostile or impossible.
        """
        metadata.check_owner(member)
        if not path:
            self._root(member)
            return
        marked = WHITEOUT_PREFIX in path
        if marked and _within_mark(path):
            return
        parent, name, real = self._tree.split(path)
        if marked and self._whiteout(path, parent, name):
            return
        match member.kind:
            case "file":
                self._file(parent, name, member, data)
            case "dir":
                self._directory(parent, name, real, member)
            case "symlink":
                self._symlink(parent, name, member)
            case "hardlink":
                self._hardlink(parent, name, member)
            case _:
                self._special(parent, name, real, member)

    def finish(self) -> None:
        """Sets the directories' times and the root's mode."""
        tree = self._tree
        tree.forget()
        for path in tree.unlisted:
            self._directory_times.setdefault(path, 0)
        for path, mtime_ns in self._directory_times.items():
            try:
                fd = open_in_root(
                    tree.root_fd, path or b".", os.O_RDONLY | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS
                )
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                tree.implicit.discard(path)  # it was replaced by a later entry
                continue
            try:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)

    def _root(self, member: Member) -> None:
        if member.kind != "dir":
            raise ImageInvalid("a layer's root must be a directory")
        self._dress(os.dup(self._tree.root_fd), b"", member)

    def _file(self, parent: int, name: bytes, member: Member, data: Iterator[bytes]) -> None:
        try:
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._tree.vacate(parent, name)
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            if member.segments is None:
                for piece in data:
                    _write(fd, piece)
            else:
                _write_sparse(fd, member, data)
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)
            if member.xattrs:
                metadata.set_xattrs(fd, metadata.wanted_xattrs(member, self._limits), member.path)
            mtime_ns = metadata.time_ns(member)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    def _directory(self, parent: int, name: bytes, real: bytes, member: Member) -> None:
        replaced = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._tree.vacate(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)
                replaced = True
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        if replaced:
            self._hide_below(fd)
        self._dress(fd, real, member)

    def _dress(self, fd: int, real: bytes, member: Member) -> None:
        """Metadata of a directory; closes the handle."""
        try:
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode)
            wanted = metadata.wanted_xattrs(member, self._limits)
            metadata.clear_xattrs(fd)
            metadata.set_xattrs(fd, wanted, member.path)
        finally:
            os.close(fd)
        self._tree.implicit.discard(real)
        self._tree.unlisted.discard(real)
        if real not in self._directory_times:
            self._tree.count(real)
        self._directory_times[real] = metadata.time_ns(member)

    def _symlink(self, parent: int, name: bytes, member: Member) -> None:
        if not member.target or len(member.target) > self._limits.path_bytes or b"\0" in member.target:
            raise ImageInvalid(f"the target of the symbolic link {show(member.path)} is empty or too long")
        try:
            os.symlink(member.target, name, dir_fd=parent)
        except FileExistsError:
            self._tree.vacate(parent, name)
            os.symlink(member.target, name, dir_fd=parent)
        self._own(parent, name, member)

    def _hardlink(self, parent: int, name: bytes, member: Member) -> None:
        target = clean(member.target, self._limits)
        try:
            if not target:
                raise IsADirectoryError(errno.EISDIR, "the root")
            directory, _, leaf = target.rpartition(b"/")
            source_fd = self._tree.open_directory(directory)
        except OSError as error:
            raise _bad_link(member) from error
        try:
            self._link(source_fd, leaf, parent, name, member)
        finally:
            os.close(source_fd)

    def _link(self, source_fd: int, leaf: bytes, parent: int, name: bytes, member: Member) -> None:
        try:
            source = os.stat(leaf, dir_fd=source_fd, follow_symlinks=False)
        except OSError as error:
            raise _bad_link(member) from error
        if stat.S_ISDIR(source.st_mode) or is_whiteout(source):
            raise _bad_link(member)
        try:
            os.link(leaf, name, src_dir_fd=source_fd, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            taken = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if (taken.st_dev, taken.st_ino) == (source.st_dev, source.st_ino):
                return
            self._tree.vacate(parent, name)
            try:
                os.link(leaf, name, src_dir_fd=source_fd, dst_dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError as error:
                raise _bad_link(member) from error

    def _special(self, parent: int, name: bytes, real: bytes, member: Member) -> None:
        device = 0
        if member.kind == "fifo":
            kind = stat.S_IFIFO
        else:
            if member.kind == "block" or member.device not in metadata.HARMLESS_DEVICES:
                self._refuse_device(real, member)
                return
            kind, device = stat.S_IFCHR, os.makedev(*member.device)
        try:
            os.mknod(name, kind | 0o600, device, dir_fd=parent)
        except FileExistsError:
            self._tree.vacate(parent, name)
            os.mknod(name, kind | 0o600, device, dir_fd=parent)
        self._own(parent, name, member)
        os.chmod(name, member.mode, dir_fd=parent)  # a fresh node of ours, so there is no link to follow

    def _refuse_device(self, real: bytes, member: Member) -> None:
        if not real.startswith(b"dev/") or member.device == metadata.WHITEOUT_DEVICE:
            major, minor = member.device
            raise ImageInvalid(
                f"{show(member.path)} is the {member.kind} device {major}:{minor}; images may not contain it",
                hint="rebuild the image without device nodes outside /dev",
            )
        self.dropped_devices += 1

    def _own(self, parent: int, name: bytes, member: Member) -> None:
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if member.xattrs:
            place = b"/proc/self/fd/%d/%s" % (parent, name)
            metadata.set_xattrs(place, metadata.wanted_xattrs(member, self._limits), member.path)
        mtime_ns = metadata.time_ns(member)
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _whiteout(self, path: bytes, parent: int, name: bytes) -> bool:
        """Handles names with AUFS marks; False when this entry has none after all."""
        if not name.startswith(WHITEOUT_PREFIX):
            return False
        if name == _OPAQUE_MARK:
            if b"/" not in path:
                self.root_opaque = True
                self.whiteouts += 1
            else:
                self._hide_below(os.open(b".", _OPEN_DIRECTORY, dir_fd=parent), keep=False)
            return True
        hidden = name[len(WHITEOUT_PREFIX) :]
        if hidden in (b"", b".", b".."):
            raise ImageInvalid(f"the whiteout {show(path)} hides nothing an image may hide")
        try:
            info = os.stat(hidden, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(hidden, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=parent)
            self.whiteouts += 1
            return True
        # It exists in this very layer, and whiteouts are about lower layers only: a directory must not show
        # what is below, anything else hides it anyway.
        if stat.S_ISDIR(info.st_mode):
            self._hide_below(os.open(hidden, _OPEN_DIRECTORY, dir_fd=parent), keep=False)
        return True

    def _hide_below(self, fd: int, *, keep: bool = True) -> None:
        """Makes a directory opaque; closes the handle unless `keep`."""
        try:
            os.setxattr(fd, OPAQUE, b"y")
            self.whiteouts += 1
        finally:
            if not keep:
                os.close(fd)


def _within_mark(path: bytes) -> bool:
    """Whether the path belongs to AUFS's own bookkeeping (.wh..wh.plnk, …), which means nothing in an image."""
    *parents, name = path.split(b"/")
    if name.startswith(_AUFS_PREFIX) and name != _OPAQUE_MARK:
        return True
    for part in parents:
        if part.startswith(_AUFS_PREFIX):
            return True
        if part.startswith(WHITEOUT_PREFIX):
            raise ImageInvalid(f"the path {show(path)} goes through a whiteout")
    return False


def _bad_link(member: Member) -> ImageInvalid:
    return ImageInvalid(
        f"the hard link {show(member.path)} points to {show(member.target)}, which is no file of this layer"
    )


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _write_sparse(fd: int, member: Member, data: Iterator[bytes]) -> None:
    """Writes the segments where they belong; the rest stays a hole."""
    buffered = b""
    for offset, length in member.segments or ():
        os.lseek(fd, offset, os.SEEK_SET)
        left = length
        while left:
            if not buffered:
                buffered = next(data)
            piece = buffered[:left]
            buffered = buffered[len(piece) :]
            left -= len(piece)
            _write(fd, piece)
    os.ftruncate(fd, member.size_bytes)
