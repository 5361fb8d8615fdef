"""The central store in PostgreSQL. Needs the extra ``postgres``; nothing else imports this module."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from midge.central.database import Job, Row, T, Value
from midge.errors import OutOfSpace, Unavailable
from midge.store.migrate import SchemaChanged, SchemaTooNew, digest, load

MIGRATIONS = Path(__file__).parent.parent / "store" / "migrations" / "central_postgres"
CONNECTIONS_MAX = 8  # of this process; requests beyond wait for one
STATEMENT_TIMEOUT_S = 10.0  # for a connection, and for each statement
_MIGRATION_LOCK = 0x6D646765  # an advisory lock: one process migrates, the others wait
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.TooManyConnectionsError,
)


class PostgresDatabase:
    """A `midge.central.database.CentralDatabase`.

    Args:
        url: ``postgresql://USER@HOST/DATABASE``; ``?host=DIRECTORY`` for a Unix socket.
    """

    exclusive = False

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: Any = None
        self._under_way: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        with _translated():
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=1,
                max_size=CONNECTIONS_MAX,
                timeout=STATEMENT_TIMEOUT_S,
                command_timeout=STATEMENT_TIMEOUT_S,
            )
        try:
            await self._migrate()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way)
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def fetch(self, sql: str, *parameters: Value) -> list[Row]:
        with _translated():
            async with self._open_pool().acquire(timeout=STATEMENT_TIMEOUT_S) as connection:
                return [tuple(record) for record in await connection.fetch(sql, *parameters)]

    async def fetch_one(self, sql: str, *parameters: Value) -> Row | None:
        rows = await self.fetch(sql, *parameters)
        return rows[0] if rows else None

    async def transact(self, job: Job[T]) -> T:
        task = asyncio.create_task(self._transaction(job), name="central transaction")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    def _transaction(self, job: Job[T]) -> Coroutine[Any, Any, T]:
        async def run() -> T:
            with _translated():
                async with (
                    self._open_pool().acquire(timeout=STATEMENT_TIMEOUT_S) as connection,
                    connection.transaction(),
                ):
                    return await job(_Transaction(connection))

        return run()

    def _open_pool(self) -> Any:
        if self._pool is None:
            raise Unavailable("the central database is closed")
        return self._pool

    async def _migrate(self) -> None:
        migrations = load(MIGRATIONS)
        with _translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
                await connection.execute(
                    "CREATE TABLE IF NOT EXISTS schema_migrations("
                    "number BIGINT PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL)"
                )
                rows = await connection.fetch("SELECT number, sha256 FROM schema_migrations")
                applied = {row[0]: row[1] for row in rows}
                if len(applied) > len(migrations):
                    raise SchemaTooNew(
                        f"the central database has schema {len(applied)}, this midge knows {len(migrations)}",
                        hint="start the newer midge again",
                    )
                for number, name, sql in migrations:
                    if number not in applied:
                        await connection.execute(sql)
                        await connection.execute(
                            "INSERT INTO schema_migrations VALUES($1,$2,$3)", number, name, digest(sql)
                        )
                    elif applied[number] != digest(sql):
                        raise SchemaChanged(
                            f"migration {name} differs from the one applied to the central database",
                            hint="run the midge that wrote this database",
                        )


class _Transaction:
    for_share = " FOR SHARE"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *parameters: Value) -> list[Row]:
        return [tuple(record) for record in await self._connection.fetch(sql, *parameters)]

    async def fetch_one(self, sql: str, *parameters: Value) -> Row | None:
        rows = await self.fetch(sql, *parameters)
        return rows[0] if rows else None


@contextmanager
def _translated() -> Iterator[None]:
    """The driver's errors as the protocol's."""
    try:
        yield
    except asyncpg.exceptions.DiskFullError as error:
        raise OutOfSpace(
            "no space left for the central database", hint="free disk space on its host"
        ) from error
    except _AWAY as error:
        raise Unavailable(
            "the central database does not answer", hint="see whether it runs and can be reached"
        ) from error
