"""The central store: organizations, apps, tokens, and which host owns which machine.

The api is its only writer. Every other part of Midge asks the api. Running machines do not need it: start, stop
and routing go on while it is away.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

import apsw

from midge.central.apps import Apps
from midge.central.machines import MachineRecords
from midge.central.organizations import PERSONAL, Organizations
from midge.central.tokens import Tokens
from midge.store.sqlite import Database

MIGRATIONS = Path(__file__).parent.parent / "store" / "migrations" / "central"


class Central:
    """The tables of the central store, on one database.

    Args:
        path: of the SQLite file; its directory exists.
    """

    def __init__(self, path: Path) -> None:
        self.database = Database(path, MIGRATIONS)
        self.organizations = Organizations(self.database)
        self.apps = Apps(self.database)
        self.tokens = Tokens(self.database)
        self.machines = MachineRecords(self.database)

    async def open(self) -> None:
        """Opens the database; the organization `personal` exists afterwards.

        Raises:
            SchemaTooNew: a newer Midge wrote it.
        """
        await self.database.open()
        now_ms = time.time_ns() // 1_000_000

        def ensure_personal(db: apsw.Connection) -> None:
            db.execute(
                "INSERT INTO organizations(id, slug, name, created_ms) VALUES(?,?,?,?) ON CONFLICT DO NOTHING",
                ("personal", PERSONAL, "Personal", now_ms),
            )

        await self.database.write(ensure_personal)

    async def aclose(self) -> None:
        await self.database.aclose()

    async def __aenter__(self) -> Central:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
