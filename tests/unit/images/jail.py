"""Unpacks a hostile layer next to things it must not touch, and checks that they are untouched."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from midge.images.layers import LayerSpec, unpack_layer
from midge.images.limits import DEFAULT_LIMITS, ImageLimits
from midge.images.model import LayerInfo
from midge.testing.images import Entry, layer_tar


def picture(root: Path, *, times: bool = True) -> dict[str, tuple[object, ...]]:
    """Everything that can be seen of a tree: kinds, modes, owners, links, content, attributes, times."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for directory, names, files in os.walk(os.fsencode(root)):
        for name in sorted((b".", *names, *files)):
            path = directory + b"/" + name
            info = os.lstat(path)
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            content: object = None
            if stat.S_ISREG(info.st_mode):
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                content = os.fsencode(Path(os.fsdecode(path)).readlink())
            elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                content = info.st_rdev
            first = relative
            if not stat.S_ISDIR(info.st_mode):
                first = inodes.setdefault(info.st_ino, relative)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            kept = {key: value for key, value in xattrs.items() if not key.startswith("security.selinux")}
            found[relative] = (
                info.st_mode,
                info.st_uid,
                info.st_gid,
                info.st_mtime_ns if times else 0,
                content,
                first,
                tuple(sorted(kept.items())),
            )
    return found


def open_handles() -> int:
    """How many files this process has open, without those of other tests that nobody refers to any more."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


class Jail:
    """A directory to unpack into, with tempting neighbours."""

    def __init__(self, base: Path, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        self.base = base
        self.limits = limits
        self.root = base / "inner" / "root"
        self.root.mkdir(parents=True)
        self.outside = base / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("do not touch")
        (base / "inner" / "passwd").write_text("root:x:0:0")
        self.link_count = (self.outside / "secret").stat().st_nlink

    def unpack(self, members: Mapping[str, bytes | str | Entry]) -> LayerInfo:
        return self.unpack_tar(layer_tar(members))

    def unpack_tar(self, tar: bytes, *, stored: bytes | None = None) -> LayerInfo:
        before = self._neighbours()
        spec = LayerSpec(diff_id=f"sha256:{hashlib.sha256(tar).hexdigest()}")
        try:
            return unpack_layer(
                io.BytesIO(tar if stored is None else stored), self.root, spec, limits=self.limits
            )
        finally:
            assert self._neighbours() == before, "something outside of the root changed"
            assert (self.outside / "secret").stat().st_nlink == self.link_count

    def _neighbours(self) -> dict[str, object]:
        seen = picture(self.base)
        return {path: value for path, value in seen.items() if not path.startswith("inner/root")}
