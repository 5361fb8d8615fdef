"""A log and its rotated files: ``log`` is the newest, ``log.1`` the one before.

They are renamed while they are read, always to a higher number, so files are told apart by inode and not by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from midge.logs.record import RECORD_BYTES_MAX, LogRecord, parse_record

READ_BYTES = 131_072  # read at a time; a whole record always fits
_ROTATIONS_MAX = 16  # rotations that may come between finding a file's name and opening it


@dataclass(slots=True)
class OpenLog:
    """A file of the log and how far it has been read: whole lines up to `offset`."""

    fd: int
    inode: int
    offset: int = 0

    def read(self) -> list[LogRecord]:
        """The next records; empty at the end. Half a record is left for later: its writer may take it back."""
        while True:
            data = os.pread(self.fd, READ_BYTES, self.offset)
            end = data.rfind(b"\n") + 1
            if not end:
                if len(data) <= RECORD_BYTES_MAX:
                    return []
                end = len(data)  # no shim wrote this
            self.offset += end
            records = [r for line in data[:end].split(b"\n") if (r := parse_record(line)) is not None]
            if records:
                return records

    def first_after(self, since_ns: int) -> LogRecord | None:
        """The first record later than `since_ns`; found by halving, since times only grow."""
        low, high = 0, os.fstat(self.fd).st_size
        while high - low > READ_BYTES:
            middle = (low + high) // 2
            found = self._record_from(middle)
            if found is not None and found.time_ns <= since_ns:
                low = middle
            else:
                high = middle
        # The record that covers `low` may begin before it; it is not later, or `low` would not be there.
        self.offset = low
        if low:
            self.offset += os.pread(self.fd, RECORD_BYTES_MAX, low).find(b"\n") + 1
        while records := self.read():
            for record in records:
                if record.time_ns > since_ns:
                    return record
        return None

    def _record_from(self, offset: int) -> LogRecord | None:
        """The first record that begins behind `offset`."""
        _, _, rest = os.pread(self.fd, 2 * RECORD_BYTES_MAX, offset).partition(b"\n")
        line, newline, _ = rest.partition(b"\n")
        return parse_record(line) if newline else None

    def read_backwards(self) -> Iterator[LogRecord]:
        """All records, newest first."""
        position = os.fstat(self.fd).st_size
        rest = b""  # the end of the line that the next block has the beginning of
        while position > 0:
            size = min(READ_BYTES, position)
            position -= size
            first, *lines = (os.pread(self.fd, size, position) + rest).split(b"\n")
            yield from _records_backwards(lines)
            rest = first if len(first) <= RECORD_BYTES_MAX else b""
        yield from _records_backwards([rest])

    def close(self) -> None:
        os.close(self.fd)


def _records_backwards(lines: list[bytes]) -> Iterator[LogRecord]:
    for line in reversed(lines):
        record = parse_record(line)
        if record is not None:
            yield record


def open_log(path: Path) -> OpenLog | None:
    """The current file of a log; None if there is none."""
    return _open(path)


def open_newest_first(path: Path) -> Iterator[OpenLog]:
    """Every file of a log once, newest first; the caller closes them."""
    for _, inode in sorted(_inodes(path).items()):
        log = _open_inode(path, inode)
        if log is not None:
            yield log


def open_successor(path: Path, inode: int) -> OpenLog | None:
    """The file that was begun when the one with `inode` was rotated away; None if that is still the current one.

    If it has been deleted since, the oldest file there is: what was between is gone.
    """
    inodes = _inodes(path)
    number = next((number for number, found in inodes.items() if found == inode), None)
    # Not always one less: while a rotation goes on there is a gap.
    newer = [other for other in inodes if number is None or other < number]
    if not newer:
        return None
    return _open_inode(path, inodes[max(newer)])


def _open_inode(path: Path, inode: int) -> OpenLog | None:
    """A file by its inode, whatever it is called by now; None if it has been deleted."""
    for _ in range(_ROTATIONS_MAX):
        number = next((number for number, found in _inodes(path).items() if found == inode), None)
        if number is None:
            return None
        log = _open(path if number == 0 else path.with_name(f"{path.name}.{number}"))
        if log is None:
            continue
        if log.inode == inode:
            return log
        log.close()
    return None


def _open(path: Path) -> OpenLog | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    return OpenLog(fd, os.fstat(fd).st_ino)


def _inodes(path: Path) -> dict[int, int]:
    """Inodes of the files there are, by their number; 0 is the current one.

    Read from the directory alone: one getdents(2), which no rename comes between.
    """
    found: dict[int, int] = {}
    try:
        with os.scandir(path.parent) as entries:
            for entry in entries:
                name, _, number = entry.name.rpartition(".")
                if entry.name == path.name:
                    found[0] = entry.inode()
                elif name == path.name and number.isdecimal() and number.isascii():
                    found[int(number)] = entry.inode()
    except FileNotFoundError:
        return {}
    return found
