"""A number in the database that grows whenever tokens end, so that processes that remember tokens see it."""

from __future__ import annotations

from midge.central.database import CentralDatabase, Transaction

_NAME = "tokens"


async def count_end(tx: Transaction) -> None:
    """To be called where tokens end, in the same transaction."""
    await tx.fetch("UPDATE revisions SET value=value+1 WHERE name=$1", _NAME)


async def read_revision(database: CentralDatabase) -> int:
    row = await database.fetch_one("SELECT value FROM revisions WHERE name=$1", _NAME)
    return -1 if row is None else int(row[0])
