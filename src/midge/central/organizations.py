"""Organizations: who owns apps."""

from __future__ import annotations

import msgspec

from midge.central.database import CentralDatabase
from midge.errors import NotFound

PERSONAL = "personal"  # exists from the start; clients use the word for "the token owner's own"


class Organization(msgspec.Struct, kw_only=True, frozen=True):
    numeric_id: int
    id: str
    slug: str
    name: str


class Organizations:
    def __init__(self, database: CentralDatabase) -> None:
        self._db = database

    async def get(self, slug: str) -> Organization:
        """Raises NotFound."""
        row = await self._db.fetch_one(
            "SELECT numeric_id, id, slug, name FROM organizations WHERE slug=$1", slug or PERSONAL
        )
        if row is None:
            raise NotFound("organization not found")
        return Organization(numeric_id=row[0], id=row[1], slug=row[2], name=row[3])
