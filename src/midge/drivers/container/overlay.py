"""The root filesystem of a container: the image's layers below, a writable layer of its own above.

<layers>/s12/upper      what the machine in the container of that name has written, gone when it ends
<layers>/s12/work       overlayfs's own
<machines>/<id>/…       the same of a machine whose root is to persist
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from midge.errors import DriverError, ImageNotFound, OutOfSpace
from midge.sys.syscalls import LINUX, MNT_DETACH, UMOUNT_NOFOLLOW, Syscalls

# Characters that end a path in overlayfs's options, or the option itself.
_SPECIAL = re.compile(r"([\\:,])")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Layers:
    """One writable layer."""

    folder: Path

    @property
    def upper(self) -> Path:
        return self.folder / "upper"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def make(self, lower: Sequence[Path], *, persist: bool) -> None:
        """Directories for the writable layer, blank unless they persist. The root looks like the image's.

        Raises:
            ImageNotFound: a layer of the image is gone. OutOfSpace. DriverError.
        """
        for path in lower:
            if not path.is_dir():
                raise ImageNotFound(f"image layer {path} is gone", hint="pull the image again")
        root = lower[0].stat()
        try:
            if not persist:
                self.discard()
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Work left by a crash is of no use, and overlayfs may refuse it.
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(mode=0o700)
            with suppress(FileExistsError):
                self.upper.mkdir(mode=0o700)
                os.chown(self.upper, root.st_uid, root.st_gid)
                self.upper.chmod(stat.S_IMODE(root.st_mode))
        except OSError as error:
            kind = OutOfSpace if error.errno in _FULL else DriverError
            raise kind(
                f"cannot make the writable layer in {self.folder}: {error.strerror}",
                hint="free disk space" if kind is OutOfSpace else "",
            ) from error

    def options(self, lower: Sequence[Path], *, persist: bool) -> str:
        """Mount options. Without persistence nobody reads the layer after a crash, so syncing it is skipped."""
        below = ":".join(escape(path) for path in lower)
        text = f"lowerdir={below},upperdir={escape(self.upper)},workdir={escape(self.work)}"
        return text if persist else f"{text},volatile"

    def discard(self) -> None:
        """Removes the writable layer. Repeatable."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Lower:
    """The layers of an image, topmost first, and what tells them from others that may come to lie at the same paths."""

    paths: tuple[Path, ...]
    identities: tuple[tuple[int, int], ...]

    def is_there(self) -> bool:
        """Whether the very same directories still lie there: an image that was removed may have been pulled anew."""
        try:
            return _identities(self.paths) == self.identities
        except OSError:
            return False


def lower(paths: Sequence[Path]) -> Lower:
    """The layers as they are now. Raises: ImageNotFound: one is gone."""
    try:
        return Lower(tuple(paths), _identities(paths))
    except OSError as error:
        raise ImageNotFound(f"image layer {error.filename} is gone", hint="pull the image again") from error


def _identities(paths: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    return tuple((found.st_dev, found.st_ino) for found in (path.stat() for path in paths))


def escape(path: Path) -> str:
    """A path in overlayfs's options (Documentation/filesystems/overlayfs.rst)."""
    return _SPECIAL.sub(r"\\\1", str(path))


def mount(target: Path, options: str, syscalls: Syscalls = LINUX) -> None:
    """Mounts the root in the host's namespace, for runtimes that cannot do it themselves. Raises: DriverError."""
    try:
        syscalls.mount("overlay", target, "overlay", 0, options)
    except OSError as error:
        raise DriverError(
            f"cannot mount the root filesystem: {error.strerror}",
            hint="the kernel log says why; the writable layer must lie on a file system such as ext4 or xfs",
        ) from error


def unmount(target: Path, syscalls: Syscalls = LINUX) -> None:
    """Undoes `mount`, also where processes still use it. Nothing if it is not mounted."""
    try:
        syscalls.umount(target, MNT_DETACH | UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
