"""Which pages of its memory a guest has used, so that a resume from disk can read them ahead.

A resumed guest faults its memory in page by page, each a read of the disk if the page cache has lost the file. What it
used between the last resume and the suspend it will mostly use again: the VMM's page table knows these pages.

The record is a hint. It is not sealed, is read as hostile input, and can at worst have the wrong pages read.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

NAME = "working-set"
PAGE_BYTES = mmap.PAGESIZE
RANGES_MAX = 4096  # of a record: 32 KiB of JSON. The shortest are left out first
READ_AHEAD_MAX_BYTES = 256 * 1024 * 1024  # what is read at once; the rest comes as it is touched
ADVICE_BYTES = (
    128 * 1024
)  # asked for at once: the kernel cuts what is more than the device's read-ahead, 128 KiB mostly
SCAN_MAX_BYTES = 16 * 1024**3  # of guest memory: eight bytes of page map a page, 32 MiB in all
GAP_PAGES = 8  # pages between two ranges that are cheaper to read along than to seek over

_ENTRY_BYTES = 8  # of /proc/<pid>/pagemap, see proc(5); bit 63 says that the page is present
_PRESENT = bytes(1 if value & 0x80 else 0 for value in range(256))
_RUN = re.compile(b"\x01+")

Range = tuple[int, int]  # first page and number of pages


def touched(pid: int, memory: Path) -> list[Range]:
    """The pages of a file that a process has in its page table, in order. Takes about 10 ms a GiB of guest memory.

    Nothing for a process that is gone, that does not map the file, or for more than SCAN_MAX_BYTES.
    """
    try:
        mapping = _mapping(pid, memory)
        if mapping is None or mapping[1] > SCAN_MAX_BYTES:
            return []
        start, size = mapping
        entries = bytearray()
        wanted = size // PAGE_BYTES * _ENTRY_BYTES
        with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(start // PAGE_BYTES * _ENTRY_BYTES)
            while len(entries) < wanted:
                piece = pagemap.read(wanted - len(entries))
                if not piece:
                    break
                entries += piece
    except OSError:
        return []
    # The highest byte of each little-endian entry has the bit.
    present = bytes(entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]).translate(_PRESENT)
    return _bounded((found.start(), found.end() - found.start()) for found in _RUN.finditer(present))


def _mapping(pid: int, memory: Path) -> tuple[int, int] | None:
    """Address and size of the mapping of a file."""
    status = memory.stat()
    wanted = (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, _, _, device, inode, *_ = line.split(maxsplit=5)
        major, _, minor = device.partition(":")
        if (int(major, 16), int(minor, 16), int(inode)) == wanted:
            start, _, end = addresses.partition("-")
            return int(start, 16), int(end, 16) - int(start, 16)
    return None


def _bounded(found: Iterable[Range]) -> list[Range]:
    """Ranges with small gaps closed, the longest of them if there are too many, in order."""
    ranges: list[Range] = []
    for first, count in found:
        if ranges and first - sum(ranges[-1]) <= GAP_PAGES:
            ranges[-1] = (ranges[-1][0], first + count - ranges[-1][0])
        else:
            ranges.append((first, count))
    if len(ranges) > RANGES_MAX:
        ranges = sorted(sorted(ranges, key=lambda r: r[1], reverse=True)[:RANGES_MAX])
    return ranges


def record(folder: Path, ranges: list[Range]) -> None:
    """Writes the record beside a snapshot."""
    (folder / NAME).write_bytes(msgspec.json.encode(ranges))


def recorded(folder: Path) -> list[Range]:
    """The record beside a snapshot; empty where there is none, or none that can be used."""
    try:
        with (folder / NAME).open("rb") as file:
            text = file.read(RANGES_MAX * 64)
        ranges = msgspec.json.decode(text, type=list[Range])
    except (OSError, msgspec.DecodeError):
        return []
    return [pair for pair in ranges[:RANGES_MAX] if pair[0] >= 0 and pair[1] > 0]


def read_ahead(memory: int, ranges: list[Range]) -> int:
    """Has the kernel read pages of an open file in the background; returns the bytes asked for.

    Blocks while requests are queued, not until they are done: call it in a thread.
    """
    size = os.fstat(memory).st_size
    asked = 0
    for first, count in ranges:
        start = first * PAGE_BYTES
        length = min(count * PAGE_BYTES, size - start, READ_AHEAD_MAX_BYTES - asked)
        if length <= 0:
            continue
        for offset in range(start, start + length, ADVICE_BYTES):
            os.posix_fadvise(memory, offset, ADVICE_BYTES, os.POSIX_FADV_WILLNEED)
        asked += length
    return asked
