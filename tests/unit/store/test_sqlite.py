"""The writer thread: durable, grouped, and one job's failure is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from midge.errors import Unavailable
from midge.store import sqlite
from midge.store.migrate import SchemaChanged, SchemaTooNew
from midge.store.sqlite import Database, StoreClosed

pytestmark = pytest.mark.anyio


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "001_first.sql").write_text("CREATE TABLE t(x INTEGER PRIMARY KEY);")
    return folder


@pytest.fixture
async def database(tmp_path: Path, migrations: Path) -> AsyncIterator[Database]:
    opened = Database(tmp_path / "test.db", migrations)
    await opened.open()
    yield opened
    await opened.aclose()


def insert(value: int) -> sqlite.Job:
    return lambda db: db.execute("INSERT INTO t VALUES(?)", (value,)).fetchone()


async def test_what_was_written_is_read(database: Database) -> None:
    await database.write(insert(1))
    assert database.read("SELECT x FROM t") == [(1,)]
    assert database.read_one("SELECT x FROM t WHERE x=?", (2,)) is None


async def test_many_writes_share_commits(database: Database) -> None:
    before = database.commits
    await asyncio.gather(*(database.write(insert(n)) for n in range(200)))
    assert len(database.read("SELECT x FROM t")) == 200
    assert database.commits - before < 100


async def test_a_job_that_fails_fails_alone(database: Database) -> None:
    def fails(db: apsw.Connection) -> None:
        db.execute("INSERT INTO t VALUES(100)")
        raise ZeroDivisionError

    results = await asyncio.gather(
        database.write(insert(1)), database.write(fails), database.write(insert(2)), return_exceptions=True
    )
    assert isinstance(results[1], ZeroDivisionError)
    assert database.read("SELECT x FROM t ORDER BY x") == [(1,), (2,)]


async def test_a_cancelled_caller_is_committed_all_the_same(database: Database) -> None:
    task = asyncio.ensure_future(database.write(insert(1)))
    await asyncio.sleep(0)
    task.cancel()
    await database.write(insert(2))
    assert database.read("SELECT x FROM t ORDER BY x") == [(1,), (2,)]


async def test_too_many_waiting_are_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "WRITE_QUEUE_MAX", 1)
    results = await asyncio.gather(*(database.write(insert(n)) for n in range(3)), return_exceptions=True)
    assert sum(isinstance(result, Unavailable) for result in results) == 2


async def test_closing_commits_what_waits(tmp_path: Path, migrations: Path) -> None:
    database = Database(tmp_path / "test.db", migrations)
    await database.open()
    writes = [asyncio.ensure_future(database.write(insert(n))) for n in range(10)]
    await asyncio.sleep(0)
    await database.aclose()
    await asyncio.gather(*writes)
    with pytest.raises(StoreClosed):
        await database.write(insert(11))
    with pytest.raises(StoreClosed):
        database.read("SELECT 1")
    assert len(list(apsw.Connection(str(database.path)).execute("SELECT x FROM t"))) == 10


async def test_a_migration_leaves_a_copy_beside_the_database(tmp_path: Path, migrations: Path) -> None:
    path = tmp_path / "test.db"
    for round_ in (1, 2, 3):
        database = Database(path, migrations)
        await database.open()
        if round_ == 1:
            await database.write(insert(1))
            (migrations / "002_second.sql").write_text("ALTER TABLE t ADD COLUMN y TEXT DEFAULT 'new';")
        else:
            assert database.read("SELECT x, y FROM t") == [(1, "new")]
        await database.aclose()
    copy = apsw.Connection(str(path) + ".before-002")
    assert list(copy.execute("SELECT * FROM t")) == [(1,)]


async def test_a_schema_of_the_future_is_left_alone(tmp_path: Path, migrations: Path) -> None:
    path = tmp_path / "test.db"
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version=7")
    connection.close()
    with pytest.raises(SchemaTooNew):
        await Database(path, migrations).open()


async def test_a_released_migration_may_not_change(tmp_path: Path, migrations: Path) -> None:
    database = Database(tmp_path / "test.db", migrations)
    await database.open()
    await database.aclose()
    (migrations / "001_first.sql").write_text("CREATE TABLE other(x);")
    with pytest.raises(SchemaChanged):
        await Database(tmp_path / "test.db", migrations).open()


async def test_numbers_without_gaps(tmp_path: Path, migrations: Path) -> None:
    (migrations / "003_third.sql").write_text("SELECT 1;")
    with pytest.raises(SchemaChanged):
        await Database(tmp_path / "test.db", migrations).open()
