"""Numbered SQL files applied in order, each in one transaction, counted in ``PRAGMA user_version``.

File names are ``001_what.sql``, without gaps. A file that has been released is never changed: its hash is recorded
when it is applied and compared at every open. Before the first of several pending files a copy of the database is
left beside it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import apsw

from midge.errors import MidgeError


class SchemaTooNew(MidgeError):
    """A newer Midge has written this database."""

    code = "schema_too_new"


class SchemaChanged(MidgeError):
    """An applied migration is not the one that this Midge ships."""

    code = "schema_changed"


def load(folder: Path) -> list[tuple[int, str, str]]:
    """The migrations of a folder as (number, name, SQL), checked to be 1, 2, 3 …"""
    found = []
    for path in sorted(folder.glob("*.sql")):
        number = int(path.name.split("_", 1)[0])
        found.append((number, path.stem, path.read_text()))
    if [number for number, _, _ in found] != list(range(1, len(found) + 1)):
        raise SchemaChanged(f"migrations in {folder} are not numbered 1 to {len(found)}")
    return found


def migrate(connection: apsw.Connection, folder: Path, path: Path) -> None:
    """Applies what is missing.

    Raises:
        SchemaTooNew, SchemaChanged: the database is left as it is.
    """
    migrations = load(folder)
    have = int(next(iter(connection.execute("PRAGMA user_version")))[0])
    if have > len(migrations):
        raise SchemaTooNew(
            f"{path} has schema {have}, this midge knows {len(migrations)}",
            hint="start the newer midge again, or restore the copy beside the database",
        )
    if have:
        _check_applied(connection, migrations[:have], path)
    if have and have < len(migrations):
        copy = path.with_name(f"{path.name}.before-{have + 1:03d}")
        connection.execute("VACUUM INTO ?", (str(copy),)) if not copy.exists() else None
    for number, name, sql in migrations[have:]:
        with connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations(number INTEGER PRIMARY KEY, name TEXT, sha256 TEXT)"
            )
            connection.execute(sql)
            connection.execute("INSERT INTO schema_migrations VALUES(?,?,?)", (number, name, digest(sql)))
            connection.execute(f"PRAGMA user_version={number}")


def _check_applied(connection: apsw.Connection, migrations: list[tuple[int, str, str]], path: Path) -> None:
    applied = dict(connection.execute("SELECT number, sha256 FROM schema_migrations"))
    for number, name, sql in migrations:
        if applied.get(number) != digest(sql):
            raise SchemaChanged(
                f"{path}: migration {name} differs from the one applied to it",
                hint="run the midge that wrote this database",
            )


def digest(sql: str) -> str:
    """How a migration is known again."""
    return hashlib.sha256(sql.encode()).hexdigest()
