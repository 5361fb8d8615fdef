"""One SQLite file with one writer thread, and group commit.

```
 loop:   await db.write(fn) ──► queue ──┐                       ┌──► futures resolved, one call for the group
                                        ▼                       │
 thread:                 BEGIN · SAVEPOINT fn1 · SAVEPOINT fn2 · COMMIT (one fsync for all that waited)
 loop:   db.read(sql, …) directly, on its own read-only connection
```

`synchronous=FULL`: what `write` returned from is on the disk. Jobs that arrive while a commit is under way share the
next one, so that durability costs one fsync a group and not one a job. A job that raises is rolled back alone.

A reserve lies beside the database (`midge.store.reserve`). When the disk is full it is given up and the group is
committed again, so that a full disk can fail an operation but not the journal that says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw
import structlog

from midge.errors import MidgeError, OutOfSpace, Unavailable
from midge.store.migrate import migrate
from midge.store.reserve import Reserve

T = TypeVar("T")
Job = Callable[[apsw.Connection], Any]

WRITE_QUEUE_MAX = 20_000  # jobs waiting; more means the disk does not keep up
GROUP_MAX = 512  # jobs in one commit: bounds how long the first of them waits
READ_CACHE_KIB = 16_384
BUSY_TIMEOUT_MS = 5_000

_log = structlog.get_logger("midge.store")


class StoreClosed(MidgeError):
    code = "shutting_down"
    status = 503


class _Pending:
    __slots__ = ("error", "future", "job", "result")

    def __init__(self, job: Job, future: asyncio.Future[Any]) -> None:
        self.job = job
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None


class Database:
    """A SQLite file that belongs to this process.

    Args:
        path: of the database file; its directory exists.
        migrations: folder of numbered SQL files, see `midge.store.migrate`.
    """

    def __init__(self, path: Path, migrations: Path) -> None:
        self.path = path
        self._migrations = migrations
        self._reserve = Reserve(path.with_name(path.name + ".reserve"))
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._reader: apsw.Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.commits = 0

    async def open(self) -> None:
        """Opens the file, brings its schema up to date, starts the writer.

        Raises:
            SchemaTooNew: a newer Midge wrote this file.
        """
        self._loop = asyncio.get_running_loop()
        connection = await asyncio.to_thread(self._connect)
        self._reader = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        self._reader.set_busy_timeout(BUSY_TIMEOUT_MS)
        self._reader.execute(f"PRAGMA cache_size=-{READ_CACHE_KIB}")
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name=f"sqlite-{self.path.stem}", daemon=True
        )
        self._thread.start()

    async def aclose(self) -> None:
        """Commits what is queued, then stops the writer."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(thread.join)
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        """Runs `job` in a transaction and returns its result once it is durable.

        The job runs on the writer thread: it must touch nothing but the connection and its own data. When the
        caller is cancelled the job is committed all the same.

        Raises:
            OutOfSpace: the disk is full, and the reserve is used up.
            Unavailable: more than WRITE_QUEUE_MAX jobs wait.
        """
        if self._thread is None or self._loop is None:
            raise StoreClosed(f"{self.path.name} is closed")
        if self._waiting >= WRITE_QUEUE_MAX:
            raise Unavailable(
                f"{self.path.name}: more than {WRITE_QUEUE_MAX} writes wait",
                hint="the disk does not keep up; try again later",
            )
        pending = _Pending(job, self._loop.create_future())
        self._waiting += 1
        self._queue.put(pending)
        result: T = await pending.future
        return result

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query, read on the calling thread: for short look-ups on the loop."""
        if self._reader is None:
            raise StoreClosed(f"{self.path.name} is closed")
        return list(self._reader.execute(sql, tuple(parameters)))

    def read_one(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        rows = self.read(sql, parameters)
        return rows[0] if rows else None

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        migrate(connection, self._migrations, self.path)
        self._reserve.fill()
        return connection

    def _next(self) -> _Pending | None:
        """The next job. While the reserve is missing, it is looked after in between."""
        while (due_in_s := self._reserve.due_in_s) is not None:
            if due_in_s == 0.0:
                self._reserve.fill()
                continue
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=due_in_s)
        return self._queue.get()

    def _run(self, connection: apsw.Connection) -> None:
        stop = False
        while not stop:
            first = self._next()
            if first is None:
                break
            group = [first]
            while len(group) < GROUP_MAX:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    stop = True
                    break
                group.append(item)
            self._commit(connection, group)
            assert self._loop is not None
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                self._loop.call_soon_threadsafe(self._resolve, group)
        connection.close()

    def _commit(self, connection: apsw.Connection, group: list[_Pending]) -> None:
        for attempt in (1, 2):
            try:
                self._transaction(connection, group)
            except apsw.FullError as error:
                if attempt == 1 and self._reserve.give_up():
                    continue
                full = OutOfSpace(
                    f"no space left for {self.path.name}",
                    hint="free disk space where the data directory lies",
                )
                full.__cause__ = error
                self._fail(group, full)
            except Exception as error:
                _log.error("commit failed", database=self.path.name, error=str(error))
                self._fail(group, error)
            return

    def _transaction(self, connection: apsw.Connection, group: Sequence[_Pending]) -> None:
        # Each statement lets go of the interpreter and may wait for it again, so those few matter: a job that is
        # alone needs no savepoint.
        alone = len(group) == 1
        connection.execute("BEGIN IMMEDIATE")
        try:
            for pending in group:
                pending.error = None
                if not alone:
                    connection.execute("SAVEPOINT job")
                try:
                    pending.result = pending.job(connection)
                except apsw.FullError:
                    raise
                except Exception as error:
                    pending.error = error
                    connection.execute("ROLLBACK" if alone else "ROLLBACK TO job")
                if not alone:
                    connection.execute("RELEASE job")
            if connection.in_transaction:
                connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.commits += 1

    @staticmethod
    def _fail(group: Iterable[_Pending], error: Exception) -> None:
        for pending in group:
            pending.error = error

    def _resolve(self, group: list[_Pending]) -> None:
        self._waiting -= len(group)
        for pending in group:
            if pending.future.done():
                continue
            if pending.error is not None:
                pending.future.set_exception(pending.error)
            else:
                pending.future.set_result(pending.result)
