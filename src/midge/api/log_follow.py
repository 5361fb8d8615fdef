"""Following a log until its machine is destroyed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from midge.errors import DeadlineExceeded, NotFound
from midge.logs.reader import TAIL_RECORDS_MAX, LogReader
from midge.logs.record import LogRecord
from midge.worker.host import Host

QUEUE_MAX = 1024  # records read and not yet sent; a slow client stops the reading
BATCH_BYTES = 64 * 1024  # records sent together
NO_LOG_YET_POLL_S = 0.1  # a machine that has never started has no log to watch
WATCH_SLICE_S = 60.0  # one wait for the end of the machine


async def follow(
    host: Host, machine_id: str, reader: LogReader, since_ns: int
) -> AsyncIterator[list[LogRecord]]:
    """Batches of the records later than `since_ns`, as they come; ends when the machine is destroyed."""
    queue: asyncio.Queue[LogRecord | None] = asyncio.Queue(QUEUE_MAX)
    tasks = [
        asyncio.create_task(_pump(reader, since_ns, queue), name="follow log"),
        asyncio.create_task(_watch(host, machine_id, queue), name="watch machine"),
    ]
    last_ns = since_ns
    try:
        ended = False
        while not ended:
            batch, ended = await _next_batch(queue)
            if batch:
                last_ns = batch[-1].time_ns
                yield batch
        pumping, watching = tasks
        if pumping.done():
            pumping.result()  # raises what went wrong
        await watching
        # The log is complete once the machine is gone: what the reader had not come to yet.
        yield await reader.tail(TAIL_RECORDS_MAX, last_ns)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def records_after(reader: LogReader, since_ns: int) -> AsyncIterator[AsyncIterator[LogRecord]]:
    """`LogReader.follow`, closed on leaving: it holds files and a watch."""
    records = reader.follow(since_ns)
    try:
        yield records
    finally:
        if isinstance(records, AsyncGenerator):
            await records.aclose()


async def _next_batch(queue: asyncio.Queue[LogRecord | None]) -> tuple[list[LogRecord], bool]:
    """At least one record, and what else is there already; True after the last one."""
    batch: list[LogRecord] = []
    item = await queue.get()
    size = 0
    while item is not None:
        batch.append(item)
        size += len(item.data)
        if size >= BATCH_BYTES or queue.empty():
            return batch, False
        item = queue.get_nowait()
    return batch, True


async def _pump(reader: LogReader, since_ns: int, queue: asyncio.Queue[LogRecord | None]) -> None:
    try:
        await _until_directory(reader.path.parent)
        async with records_after(reader, since_ns) as records:
            async for record in records:
                await queue.put(record)
    except OSError:
        # The directory went away: the machine is being destroyed, and the other task sees it.
        return


async def _until_directory(path: Path) -> None:
    """Another process makes it, and nothing above it is worth a watch."""
    while True:
        if await asyncio.to_thread(path.is_dir):
            return
        await asyncio.sleep(NO_LOG_YET_POLL_S)


async def _watch(host: Host, machine_id: str, queue: asyncio.Queue[LogRecord | None]) -> None:
    while True:
        try:
            await host.wait(machine_id, states=("destroyed",), timeout_s=WATCH_SLICE_S)
        except NotFound:
            pass
        except DeadlineExceeded:
            # Answered before its time when the machine has failed: it can still be started again.
            await asyncio.sleep(1)
            continue
        await queue.put(None)
        return
