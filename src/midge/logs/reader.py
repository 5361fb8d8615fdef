"""Reading a machine's log: its end, and what comes next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import takewhile
from pathlib import Path

from midge.logs.files import OpenLog, open_log, open_newest_first, open_successor
from midge.logs.inotify import FileWatch
from midge.logs.record import LogRecord

TAIL_RECORDS_MAX = 10_000  # most records one `tail` gives


class LogReader:
    """The log at `path`, with its rotated files beside it. Any number of readers may read one log."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def tail(self, count: int, since_ns: int | None = None) -> list[LogRecord]:
        """The newest records, oldest first: at most `count`, and only those later than `since_ns`.

        Reads no more of the files than it needs. No log gives no records.
        """
        return await asyncio.to_thread(self._tail, min(count, TAIL_RECORDS_MAX), since_ns)

    async def first(self, since_ns: int) -> LogRecord | None:
        """The first record later than `since_ns` that is still there, without reading what lies between."""
        return await asyncio.to_thread(self._first, since_ns)

    async def follow(self, since_ns: int | None = None) -> AsyncIterator[LogRecord]:
        """Records as they are written, without end: those later than `since_ns`, or those written from now on.

        Rotation loses and repeats nothing, as long as the reader is not slower than all kept files are long.

        Raises:
            OSError: the log's directory does not exist.
        """
        with FileWatch(self.path) as watch, contextlib.ExitStack() as stack:
            current: OpenLog | None = None
            last_ns = since_ns or 0
            first = True
            while True:
                watch.arm()
                if current is None:
                    current = await asyncio.to_thread(self._open, since_ns, at_end=first and since_ns is None)
                    first = False
                    if current is None:
                        await watch.wait()
                        continue
                    stack.callback(current.close)
                records = await asyncio.to_thread(current.read)
                for record in records:
                    if record.time_ns > last_ns:
                        last_ns = record.time_ns
                        yield record
                if records:
                    continue
                successor = await asyncio.to_thread(self._next, current)
                if successor is None:
                    await watch.wait()
                elif successor is not current:
                    stack.pop_all().close()
                    stack.callback(successor.close)
                    current = successor

    def _tail(self, count: int, since_ns: int | None) -> list[LogRecord]:
        newest_first: list[LogRecord] = []
        with contextlib.ExitStack() as stack:
            for log in open_newest_first(self.path):
                stack.callback(log.close)
                for record in takewhile(
                    lambda r: since_ns is None or r.time_ns > since_ns, log.read_backwards()
                ):
                    if len(newest_first) >= count:
                        return newest_first[::-1]
                    newest_first.append(record)
        return newest_first[::-1]

    def _first(self, since_ns: int) -> LogRecord | None:
        found: LogRecord | None = None
        for log in open_newest_first(self.path):
            try:
                record = log.first_after(since_ns)
                log.offset = 0
                begins_before = bool(records := log.read()) and records[0].time_ns <= since_ns
            finally:
                log.close()
            found = record or found
            if begins_before:
                break
        return found

    def _open(self, since_ns: int | None, *, at_end: bool) -> OpenLog | None:
        """Where following begins: the end, or the file that holds `since_ns`."""
        if since_ns is None:
            log = open_log(self.path)
            if log is not None and at_end:
                while log.read():
                    pass
            return log
        found: OpenLog | None = None
        for log in open_newest_first(self.path):
            if found is not None:
                found.close()
            found = log
            records = log.read()
            log.offset = 0
            if records and records[0].time_ns <= since_ns:
                break
        return found

    def _next(self, current: OpenLog) -> OpenLog | None:
        """The file after `current`; `current` itself if it got its last records meanwhile; None if it goes on."""
        successor = open_successor(self.path, current.inode)
        if successor is None:
            return None
        # Nothing is written to a file any more once it has been renamed, so this look is the last.
        offset = current.offset
        if current.read():
            current.offset = offset
            successor.close()
            return current
        return successor
