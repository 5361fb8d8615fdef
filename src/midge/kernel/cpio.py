"""Writes cpio archives in the "newc" format: what the kernel unpacks as its initramfs.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. The same entries give the same
bytes: no times, no owners but root, inode numbers in the order of the entries.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable

import msgspec

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"

# A field is eight hex digits.
_FIELD_MAX = 0xFFFF_FFFF
# PATH_MAX of the kernel, which skips a longer name silently.
_NAME_BYTES_MAX = 4096


class Entry(msgspec.Struct, frozen=True):
    """One member of an archive.

    Attributes:
        name: path without a leading slash; parents come as entries of their own, before it.
        mode: type and permission bits as in `stat.st_mode`.
        data: contents of a file, target of a symbolic link.
        rdev: major and minor number of a device node.
    """

    name: str
    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755) -> Entry:
    return Entry(name, stat.S_IFDIR | mode)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    return Entry(name, stat.S_IFREG | mode, data)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def char_device(name: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    return Entry(name, stat.S_IFCHR | mode, rdev=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive with these entries, in this order.

    Raises:
        ValueError: a name is empty, absolute, too long, given twice, or comes before its parent.
    """
    out = bytearray()
    directories: set[str] = {""}
    names: set[str] = set()
    for inode, entry in enumerate(entries, start=1):
        _check(entry, names, directories)
        names.add(entry.name)
        if stat.S_ISDIR(entry.mode):
            directories.add(entry.name)
        _append(out, inode, entry)
    _append(out, 0, Entry(_TRAILER, 0))
    return bytes(out)


def _check(entry: Entry, names: set[str], directories: set[str]) -> None:
    name = entry.name
    if not name or name.startswith("/") or "\0" in name or len(name.encode()) >= _NAME_BYTES_MAX:
        raise ValueError(f"{name[:64]!r} is no name for an archive member")
    if name in names or name == _TRAILER:
        raise ValueError(f"{name!r} is in the archive already")
    parent = name.rpartition("/")[0]
    if parent not in directories:
        raise ValueError(f"{name!r} comes before its directory {parent!r}")
    if len(entry.data) > _FIELD_MAX:
        raise ValueError(f"{name!r} is larger than 4 GiB")


def _append(out: bytearray, inode: int, entry: Entry) -> None:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime
        len(entry.data),
        0,  # device of the file itself
        0,
        *entry.rdev,
        len(name),
        0,  # checksum, unused by this magic
    )
    out += _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    out += bytes(-len(out) % 4)
    out += entry.data
    out += bytes(-len(out) % 4)
