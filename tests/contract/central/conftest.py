"""One suite for both databases."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from midge.central.database import CentralDatabase
from midge.central.sqlite import SqliteDatabase
from midge.central.store import Central
from midge.testing.fake_clock import FakeClock

from .postgres import find_programs, running_postgres

_number = itertools.count(1)

# Opens the test's own database once more, as another process would.
MakeCentral = Callable[[], Central]


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[Path]:
    pytest.importorskip("asyncpg", reason="no asyncpg: install the extra `postgres`")
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server: install the package postgresql")
    with running_postgres(programs) as socket:
        yield socket


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
async def make_central(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[MakeCentral]:
    if request.param == "sqlite":
        yield lambda: Central(SqliteDatabase(tmp_path / "central.db"), clock=clock)
        return
    socket = request.getfixturevalue("postgres_socket")
    import asyncpg

    from midge.central.postgres import PostgresDatabase

    name = f"test_{next(_number)}"
    admin = await asyncpg.connect(f"postgresql://midge@/postgres?host={socket}")
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()

    def make() -> Central:
        database: CentralDatabase = PostgresDatabase(f"postgresql://midge@/{name}?host={socket}")
        return Central(database, clock=clock)

    yield make


@pytest.fixture
async def central(make_central: MakeCentral) -> AsyncIterator[Central]:
    async with make_central() as opened:
        yield opened
