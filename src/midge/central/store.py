"""The central store: organizations, apps, tokens, and which host owns which machine.

The api is its only writer. Every other part of Midge asks the api. Running machines do not need it: start, stop
and routing go on while it is away.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from midge.central.apps import Apps
from midge.central.database import CentralDatabase, Transaction
from midge.central.machines import MachineRecords
from midge.central.organizations import PERSONAL, Organizations
from midge.central.sqlite import SqliteDatabase
from midge.central.tokens import Tokens
from midge.clock import Clock, SystemClock, now_ms


class Central:
    """The tables of the central store, on one database.

    Args:
        database: where they are; a path is that of a SQLite file in a directory that exists.
    """

    def __init__(self, database: Path | CentralDatabase, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.database: CentralDatabase = SqliteDatabase(database) if isinstance(database, Path) else database
        self.organizations = Organizations(self.database)
        self.tokens = Tokens(self.database, self._clock)
        self.apps = Apps(self.database, self._clock, tokens_ended=self.tokens.forget)
        self.machines = MachineRecords(self.database, self._clock)

    async def open(self) -> None:
        """Opens the database; the organization `personal` exists afterwards.

        Raises:
            SchemaTooNew: a newer Midge wrote it.
        """
        await self.database.open()
        created_ms = now_ms(self._clock)

        async def ensure_personal(tx: Transaction) -> None:
            await tx.fetch(
                "INSERT INTO organizations(id, slug, name, created_ms) VALUES($1,$2,$3,$4) "
                "ON CONFLICT DO NOTHING",
                "personal",
                PERSONAL,
                "Personal",
                created_ms,
            )

        await self.database.transact(ensure_personal)
        if self.database.exclusive:
            await self.machines.end_reservations()

    async def aclose(self) -> None:
        await self.database.aclose()

    async def __aenter__(self) -> Central:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
