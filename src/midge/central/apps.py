"""Apps: the names machines live under."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec

from midge.central.database import CentralDatabase, Row, Transaction
from midge.central.organizations import Organization
from midge.central.revision import count_end
from midge.clock import Clock, now_ms
from midge.errors import Conflict, NameTaken, NotFound

_COLUMNS = (
    "a.numeric_id, a.id, a.name, a.network, a.role, a.created_ms, a.deleting, a.idempotency_key, "
    "o.numeric_id, o.id, o.slug, o.name FROM apps a JOIN organizations o ON o.numeric_id = a.org_id"
)


class AppNameTaken(NameTaken):
    """The name exists, perhaps in an organization the caller cannot see. The API answers 422 here, not 409."""

    status = 422


class App(msgspec.Struct, kw_only=True, frozen=True):
    """`deleting`: its machines are being destroyed, nothing new may start in it."""

    numeric_id: int
    id: str
    name: str
    network: str
    role: str
    created_ms: int
    deleting: bool
    idempotency_key: str | None
    organization: Organization


class Apps:
    """
    Args:
        tokens_ended: called when tokens have ended with their app.
    """

    def __init__(self, database: CentralDatabase, clock: Clock, tokens_ended: Callable[[], None]) -> None:
        self._db = database
        self._clock = clock
        self._tokens_ended = tokens_ended

    async def get(self, name: str) -> App:
        """Raises NotFound."""
        app = await self.find(name)
        if app is None:
            raise NotFound("app not found")
        return app

    async def find(self, name: str) -> App | None:
        row = await self._db.fetch_one(f"SELECT {_COLUMNS} WHERE a.name=$1", name)
        return None if row is None else _app(row)

    async def of_organization(self, slug: str, *, role: str = "") -> list[App]:
        """Sorted by name; `role` empty means all."""
        rows = await self._db.fetch(
            f"SELECT {_COLUMNS} WHERE o.slug=$1 AND ($2='' OR a.role=$2) ORDER BY a.name", slug, role
        )
        return [_app(row) for row in rows]

    async def count(self) -> int:
        row = await self._db.fetch_one("SELECT count(*) FROM apps WHERE deleting=0")
        return int(row[0]) if row is not None else 0

    async def deleting(self) -> list[App]:
        """Apps whose deletion was begun and has not ended."""
        return [_app(row) for row in await self._db.fetch(f"SELECT {_COLUMNS} WHERE a.deleting=1")]

    async def create(
        self,
        organization: Organization,
        name: str,
        *,
        network: str,
        role: str = "",
        idempotency_key: str | None = None,
        named: bool = True,
    ) -> App:
        """Adds an app, or returns the one this idempotency key already made.

        Args:
            named: the name was the caller's wish and not generated here.

        Raises:
            AppNameTaken: names are one namespace for all organizations.
            Conflict: the key was used with another name.
        """
        app_id = secrets.token_hex(8)
        created_ms = now_ms(self._clock)

        async def made_before(tx: Transaction) -> str | None:
            if idempotency_key is None:
                return None
            earlier = await tx.fetch_one(
                "SELECT name FROM apps WHERE org_id=$1 AND idempotency_key=$2",
                organization.numeric_id,
                idempotency_key,
            )
            if earlier is None:
                return None
            if named and earlier[0] != name:
                raise Conflict(f"idempotency key was already used to create the app {earlier[0]!r}")
            return str(earlier[0])

        async def job(tx: Transaction) -> str:
            if (earlier := await made_before(tx)) is not None:
                return earlier
            added = await tx.fetch_one(
                "INSERT INTO apps(id, name, org_id, network, role, created_ms, idempotency_key) "
                "VALUES($1,$2,$3,$4,$5,$6,$7) ON CONFLICT DO NOTHING RETURNING name",
                app_id,
                name,
                organization.numeric_id,
                network,
                role,
                created_ms,
                idempotency_key,
            )
            if added is not None:
                return name
            if (earlier := await made_before(tx)) is not None:  # by another, at the same moment
                return earlier
            raise AppNameTaken("Validation failed: Name has already been taken")

        return await self.get(await self._db.transact(job))

    async def begin_delete(self, app: App) -> None:
        """From now on nothing is created in the app."""

        async def job(tx: Transaction) -> None:
            await tx.fetch("UPDATE apps SET deleting=1 WHERE id=$1", app.id)

        await self._db.transact(job)

    async def finish_delete(self, app: App) -> None:
        """Removes the app, its tokens and the records of its machines, which are destroyed; its name is free again."""

        async def job(tx: Transaction) -> None:
            await tx.fetch("DELETE FROM machines WHERE app_id=$1", app.id)
            await tx.fetch("DELETE FROM apps WHERE id=$1", app.id)  # and its tokens
            await count_end(tx)

        await self._db.transact(job)
        self._tokens_ended()


def _app(row: Row) -> App:
    numeric, id_, name, network, role, created, deleting, key, org_numeric, org_id, slug, org_name = row
    return msgspec.convert(
        {
            "numeric_id": numeric,
            "id": id_,
            "name": name,
            "network": network,
            "role": role,
            "created_ms": created,
            "deleting": bool(deleting),
            "idempotency_key": key,
            "organization": {"numeric_id": org_numeric, "id": org_id, "slug": slug, "name": org_name},
        },
        App,
    )
