"""Merges unpacked layers into one directory without a mount and without copying: files are hard links.

Used to build a rootfs image, and where overlayfs cannot express an image: too many layers, or a layer that uses
a directory without listing it, whose mode and owner must then come from the layer below.
"""

# ruff: noqa: PTH101, PTH102, PTH108 - names are bytes here, which path objects cannot hold

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from midge.errors import ImageInvalid
from midge.images.fs import space_errors
from midge.images.tree import OPAQUE

_OVERLAY_ATTRIBUTES = "trusted.overlay."


class MergeLayer:
    """One layer to merge. `implicit` are its unlisted directories, `opaque` hides everything below."""

    def __init__(self, path: Path, *, implicit: Sequence[bytes] = (), opaque: bool = False) -> None:
        self.path = os.fsencode(path)
        self.implicit = frozenset(implicit)
        self.opaque = opaque


def merge(layers: Sequence[MergeLayer], dest: Path) -> None:
    """Merges layers (bottom first) into the existing, empty directory `dest`.

    Blocking. Nobody else may write to the layers or to `dest` meanwhile.
    """
    root = os.fsencode(dest)
    times: dict[bytes, int] = {b"": 0}
    with space_errors("merging layers"):
        os.chown(root, 0, 0)
        dest.chmod(0o755)
        for layer in layers:
            if layer.opaque:
                _empty(root)
            _merge_directory(layer, b"", root, times, fresh=False)
        for path, mtime_ns in times.items():
            place = _join(root, path)
            try:
                info = os.lstat(place)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISDIR(info.st_mode):
                os.utime(place, ns=(mtime_ns, mtime_ns))


def _merge_directory(
    layer: MergeLayer, path: bytes, root: bytes, times: dict[bytes, int], *, fresh: bool
) -> None:
    """One directory of a layer, then those in it; their depth is limited when layers are unpacked.

    Args:
        fresh: no lower layer has this directory.
    """
    source, dest = _join(layer.path, path), _join(root, path)
    if fresh or path not in layer.implicit:
        times[path] = _dress(source, dest)
    subdirectories: list[bytes] = []
    with os.scandir(source) as found:
        for entry in found:
            target = _join(dest, entry.name)
            if entry.is_dir(follow_symlinks=False):
                subdirectories.append(_join(path, entry.name))
            elif not entry.is_file(follow_symlinks=False) and _is_whiteout(entry):
                _remove(target)
            else:
                _link(entry.path, target)
    for below in subdirectories:
        there = _prepare(_join(layer.path, below), _join(root, below))
        _merge_directory(layer, below, root, times, fresh=not there)


def _prepare(origin: bytes, place: bytes) -> bool:
    """Makes room for a directory; True when there is one already."""
    try:
        info = os.lstat(place)
    except FileNotFoundError:
        os.mkdir(place, 0o700)
        return False
    if stat.S_ISDIR(info.st_mode):
        if _is_opaque(origin):
            _empty(place)
        return True
    os.unlink(place)
    os.mkdir(place, 0o700)
    return False


def _dress(source: bytes, dest: bytes) -> int:
    """Copies a directory's metadata; its time is returned, to be set when its content is complete."""
    info = os.lstat(source)
    os.chown(dest, info.st_uid, info.st_gid)
    os.chmod(dest, stat.S_IMODE(info.st_mode))
    kept = {name for name in os.listxattr(source) if not name.startswith(_OVERLAY_ATTRIBUTES)}
    for name in os.listxattr(dest):
        if name not in kept:
            os.removexattr(dest, name)
    for name in kept:
        os.setxattr(dest, name, os.getxattr(source, name))
    return info.st_mtime_ns


def _join(path: bytes, name: bytes) -> bytes:
    return b"/".join(part for part in (path, name) if part)


def _link(source: bytes, target: bytes) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        _remove(target)
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        # ext4 allows 65,000 names a file; an image near that is not worth a copy of its own inode table.
        raise ImageInvalid("a file of the image has more hard links than the file system allows") from error


def _is_whiteout(entry: os.DirEntry[bytes]) -> bool:
    info = entry.stat(follow_symlinks=False)
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _is_opaque(directory: bytes) -> bool:
    return OPAQUE in os.listxattr(directory)


def _remove(path: bytes) -> None:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(info.st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _empty(root: bytes) -> None:
    with os.scandir(root) as found:
        for entry in list(found):
            _remove(entry.path)
