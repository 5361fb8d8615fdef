"""The journal's own room: given up once, and there again when there is room."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest

from midge.errors import OutOfSpace
from midge.store import reserve as reserves
from midge.store.reserve import RESERVE_BYTES, SPARE_BYTES, Reserve
from midge.store.sqlite import Database
from tests.deadlines import PATIENCE_S


@pytest.fixture
def reserve(tmp_path: Path) -> Reserve:
    made = Reserve(tmp_path / "reserve")
    made.fill()
    return made


def free(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=size_bytes, f_frsize=1))


def test_it_takes_its_room_at_once(reserve: Reserve) -> None:
    assert reserve.path.stat().st_blocks * 512 >= RESERVE_BYTES
    assert reserve.due_in_s is None


def test_it_is_given_up_once(reserve: Reserve) -> None:
    assert reserve.give_up() is True
    assert reserve.give_up() is False
    assert not reserve.path.exists()


def test_it_comes_back_only_where_there_is_room_to_spare(
    reserve: Reserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserves, "REFILL_INTERVAL_S", 0.0)
    reserve.give_up()
    free(monkeypatch, RESERVE_BYTES + SPARE_BYTES - 1)
    reserve.fill()
    assert not reserve.path.exists()
    assert reserve.due_in_s == 0.0
    free(monkeypatch, RESERVE_BYTES + SPARE_BYTES)
    reserve.fill()
    assert reserve.path.stat().st_size == RESERVE_BYTES
    assert reserve.due_in_s is None


def test_half_of_it_is_not_left_behind(reserve: Reserve, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    reserve.give_up()
    monkeypatch.setattr(os, "posix_fallocate", full)
    reserve.fill()
    assert not reserve.path.exists()
    assert reserve.due_in_s is not None


@pytest.mark.anyio
async def test_a_database_makes_it_again_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    (migrations / "001_first.sql").write_text("CREATE TABLE t(x INTEGER PRIMARY KEY);")
    monkeypatch.setattr(reserves, "REFILL_INTERVAL_S", 0.01)
    database = Database(tmp_path / "test.db", migrations)
    await database.open()
    file = tmp_path / "test.db.reserve"
    free(monkeypatch, 0)

    def full(connection: apsw.Connection) -> None:
        raise apsw.FullError("disk full")

    with pytest.raises(OutOfSpace):
        await database.write(full)
    assert not file.exists()
    free(monkeypatch, 1 << 40)
    async with asyncio.timeout(PATIENCE_S):
        while not file.exists():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0.001)
    await database.write(lambda connection: connection.execute("INSERT INTO t VALUES(1)").fetchall())
    await database.aclose()
