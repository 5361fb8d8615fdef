"""What the tables of the central store need of a database, so that one set of queries serves SQLite and PostgreSQL.

Queries are SQL that both read alike. Parameters are ``$1``, ``$2`` …, and their first uses come in that order: SQLite
takes them for names and numbers them as they appear. Whether a row was changed is told by ``RETURNING``; what may
be there already is inserted with ``ON CONFLICT DO NOTHING``. What is left of the differences has a name here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]
Value = str | int | bytes | None


class Transaction(Protocol):
    """Statements that count together or not at all.

    Attributes:
        for_share: ends a SELECT whose rows must stay as they are until the transaction ends; empty where writers
            take turns anyway.
    """

    for_share: str

    async def fetch(self, sql: str, *parameters: Value) -> list[Row]:
        """Runs one statement; its rows, all of them."""
        ...

    async def fetch_one(self, sql: str, *parameters: Value) -> Row | None:
        """As `fetch`: the first row, or None."""
        ...


Job = Callable[[Transaction], Awaitable[T]]


class CentralDatabase(Protocol):
    """A database with the central tables in it.

    Attributes:
        exclusive: no other process uses it while this one does.
    """

    exclusive: bool

    async def open(self) -> None:
        """Connects and brings the schema up to date.

        Raises:
            SchemaTooNew: a newer Midge wrote it.
            Unavailable: it does not answer.
        """
        ...

    async def aclose(self) -> None:
        """Ends what is under way, then disconnects."""
        ...

    async def fetch(self, sql: str, *parameters: Value) -> list[Row]:
        """All rows of a query that changes nothing.

        Raises:
            Unavailable: the database does not answer.
        """
        ...

    async def fetch_one(self, sql: str, *parameters: Value) -> Row | None:
        """As `fetch`: the first row, or None."""
        ...

    async def transact(self, job: Job[T]) -> T:
        """Runs `job` in a transaction and returns its result once that is durable.

        The job awaits nothing but its transaction, and can be run again: it changes nothing else. If it raises, all
        it did is undone. A caller that is cancelled meanwhile does not stop it.

        Raises:
            OutOfSpace: there is no room for it.
            Unavailable: the database does not answer, or too much waits for it.
        """
        ...
