"""The central store in a SQLite file of this process.

Reads run on the calling thread: they take a few microseconds, less than handing them to another thread would. A
transaction runs on the writer thread of `midge.store.sqlite` and shares its commit with those that wait beside it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import apsw

from midge.central.database import Job, Row, T, Value
from midge.store.sqlite import Database

MIGRATIONS = Path(__file__).parent.parent / "store" / "migrations" / "central"


class SqliteDatabase:
    """A `midge.central.database.CentralDatabase`.

    Args:
        path: of the file; its directory exists.
    """

    exclusive = True  # the lock on the data directory sees to it

    def __init__(self, path: Path) -> None:
        self._db = Database(path, MIGRATIONS)

    async def open(self) -> None:
        await self._db.open()

    async def aclose(self) -> None:
        await self._db.aclose()

    async def fetch(self, sql: str, *parameters: Value) -> list[Row]:
        return self._db.read(sql, parameters)

    async def fetch_one(self, sql: str, *parameters: Value) -> Row | None:
        return self._db.read_one(sql, parameters)

    async def transact(self, job: Job[T]) -> T:
        return await self._db.write(
            lambda connection: _run(cast("Coroutine[Any, Any, T]", job(_Transaction(connection))))
        )


class _Transaction:
    """On the writer thread. Nothing in it ever suspends."""

    for_share = ""  # there is one writer

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *parameters: Value) -> list[Row]:
        return list(self._connection.execute(sql, parameters))

    async def fetch_one(self, sql: str, *parameters: Value) -> Row | None:
        rows = await self.fetch(sql, *parameters)
        return rows[0] if rows else None


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never suspends, without a loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a transaction of the central store waited for something else")
