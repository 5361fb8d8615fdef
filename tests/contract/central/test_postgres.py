"""What only PostgreSQL does."""

from __future__ import annotations

from pathlib import Path

import pytest

from midge.errors import Unavailable

pytest.importorskip("asyncpg", reason="no asyncpg: install the extra `postgres`")
from midge.central.postgres import PostgresDatabase
from midge.central.store import Central
from midge.store.migrate import SchemaChanged, SchemaTooNew

pytestmark = pytest.mark.anyio


async def test_a_server_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await PostgresDatabase(f"postgresql://midge@/x?host={tmp_path}").open()


@pytest.mark.slow
async def test_a_schema_that_is_not_ours_is_refused(postgres_socket: Path) -> None:
    url = f"postgresql://midge@/postgres?host={postgres_socket}"
    database = PostgresDatabase(url)
    async with Central(database):
        await database.fetch("UPDATE schema_migrations SET sha256='x'")
        with pytest.raises(SchemaChanged):
            await PostgresDatabase(url).open()
        await database.fetch("INSERT INTO schema_migrations VALUES(99, 'newer', 'x')")
        with pytest.raises(SchemaTooNew):
            await PostgresDatabase(url).open()
