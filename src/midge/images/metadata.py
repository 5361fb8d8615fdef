"""Owner, mode, times and extended attributes of unpacked entries: which are honoured and which are refused.

Attributes:

* ``user.*``, ``security.capability``, POSIX ACLs: set, they are part of the image.
* ``trusted.*``, ``user.overlay.*``: refused. overlayfs obeys them (opaque, redirect, metacopy), so an image could
  make a lower layer's file appear elsewhere, or hide one.
* other ``security.*`` (SELinux, IMA, …) and foreign names (``com.apple.*``): left out. They are labels of the
  machine that built the image; Docker and containerd lose them as well wherever the kernel refuses them.

Device nodes: container engines make whatever node the image asks for and rely on the device cgroup. Midge's
machines all get their own /dev, so nodes below ``dev`` can never be seen: the handful of harmless ones that
distributions ship are made, others there are left out (and counted). Anywhere else a node has no
innocent use, and on the host it would be a door to a disk for whoever reaches the store: refused.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from midge.errors import ImageInvalid
from midge.images.limits import ImageLimits, check
from midge.images.tar import Member
from midge.images.tree import OPAQUE, show

# Character devices every root file system may contain (Documentation/admin-guide/devices.txt).
HARMLESS_DEVICES: Final = frozenset(
    {
        (1, 3),  # null
        (1, 5),  # zero
        (1, 7),  # full
        (1, 8),  # random
        (1, 9),  # urandom
        (5, 0),  # tty
        (5, 1),  # console
        (5, 2),  # ptmx
    }
)
WHITEOUT_DEVICE: Final = (0, 0)

_MAX_ID = 2**32 - 2  # the last value is "no change" to chown(2)
# Times outside of what every file system can hold become 1970, as Docker does.
_MAX_TIME_NS = (2**33) * 1_000_000_000
_KEPT_PREFIXES = (b"user.",)
_KEPT = frozenset({b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"})
_REFUSED_PREFIXES = (b"trusted.", b"user.overlay.")


def time_ns(member: Member) -> int:
    """The member's time, or 1970 where it cannot be stored."""
    return member.mtime_ns if 0 <= member.mtime_ns <= _MAX_TIME_NS else 0


def check_owner(member: Member) -> None:
    """Raises `ImageInvalid` for owners chown(2) would not take literally."""
    if member.uid > _MAX_ID or member.gid > _MAX_ID:
        raise ImageInvalid(f"the owner of {show(member.path)} is not a user id")


def wanted_xattrs(member: Member, limits: ImageLimits) -> dict[bytes, bytes]:
    """The attributes to set.

    Raises:
        ImageInvalid: one is refused, or they are over a limit.
    """
    if not member.xattrs:
        return {}
    check(limits, "xattrs", len(member.xattrs), f"the attributes of {show(member.path)}")
    total = sum(len(name) + len(value) for name, value in member.xattrs.items())
    check(limits, "xattr_bytes", total, f"the attributes of {show(member.path)}")
    for name in member.xattrs:
        if name.startswith(_REFUSED_PREFIXES):
            raise ImageInvalid(
                f"{show(member.path)} has the attribute {show(name)}, which images may not set"
            )
    return {
        name: value
        for name, value in member.xattrs.items()
        if (name in _KEPT or name.startswith(_KEPT_PREFIXES)) and b"\0" not in name
    }


def set_xattrs(where: int | bytes, xattrs: dict[bytes, bytes], path: bytes) -> None:
    """Sets attributes on an open file, or on a path without following its last component.

    Attributes the file system does not support are left out, as container engines do.
    """
    for name, value in xattrs.items():
        try:
            os.setxattr(where, name, value, follow_symlinks=isinstance(where, int))
        except OSError as error:
            # EPERM: user.* on a link or device; ENOSPC, E2BIG: does not fit the inode's attribute block.
            if error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EINVAL):
                raise ImageInvalid(
                    f"the attribute {show(name)} of {show(path)} cannot be stored on this file system"
                ) from error
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise


def clear_xattrs(fd: int) -> None:
    """Removes what an earlier entry for the same directory had set; overlayfs's own mark stays."""
    for name in os.listxattr(fd):
        if name != OPAQUE and not name.startswith("security.selinux"):
            os.removexattr(fd, name)
