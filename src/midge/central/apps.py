"""Apps: the names machines live under."""

from __future__ import annotations

import secrets
import time

import apsw
import msgspec

from midge.central.organizations import Organization
from midge.errors import Conflict, NameTaken, NotFound
from midge.store.sqlite import Database

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
    def __init__(self, database: Database) -> None:
        self._db = database

    def get(self, name: str) -> App:
        """Raises NotFound."""
        app = self.find(name)
        if app is None:
            raise NotFound("app not found")
        return app

    def find(self, name: str) -> App | None:
        row = self._db.read_one(f"SELECT {_COLUMNS} WHERE a.name=?", (name,))
        return None if row is None else _app(row)

    def of_organization(self, slug: str, *, role: str = "") -> list[App]:
        """Sorted by name; `role` empty means all."""
        rows = self._db.read(
            f"SELECT {_COLUMNS} WHERE o.slug=? AND (?='' OR a.role=?) ORDER BY a.name", (slug, role, role)
        )
        return [_app(row) for row in rows]

    def count(self) -> int:
        row = self._db.read_one("SELECT count(*) FROM apps WHERE deleting=0")
        return int(row[0]) if row is not None else 0

    def deleting(self) -> list[App]:
        """Apps whose deletion was begun and has not ended."""
        return [_app(row) for row in self._db.read(f"SELECT {_COLUMNS} WHERE a.deleting=1")]

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
        now_ms = time.time_ns() // 1_000_000

        def job(db: apsw.Connection) -> str:
            if idempotency_key is not None:
                earlier = db.execute(
                    "SELECT name FROM apps WHERE org_id=? AND idempotency_key=?",
                    (organization.numeric_id, idempotency_key),
                ).fetchone()
                if earlier is not None:
                    if named and earlier[0] != name:
                        raise Conflict(f"idempotency key was already used to create the app {earlier[0]!r}")
                    return str(earlier[0])
            if db.execute("SELECT 1 FROM apps WHERE name=?", (name,)).fetchone() is not None:
                raise AppNameTaken("Validation failed: Name has already been taken")
            db.execute(
                "INSERT INTO apps(id, name, org_id, network, role, created_ms, idempotency_key) "
                "VALUES(?,?,?,?,?,?,?)",
                (app_id, name, organization.numeric_id, network, role, now_ms, idempotency_key),
            )
            return name

        return self.get(await self._db.write(job))

    async def begin_delete(self, app: App) -> None:
        """From now on nothing is created in the app."""
        await self._db.write(
            lambda db: db.execute("UPDATE apps SET deleting=1 WHERE id=?", (app.id,)).fetchone()
        )

    async def finish_delete(self, app: App) -> None:
        """Removes the app and the records of its machines, which are destroyed; its name is free again."""

        def job(db: apsw.Connection) -> None:
            db.execute("DELETE FROM machines WHERE app_id=?", (app.id,))
            db.execute("DELETE FROM apps WHERE id=?", (app.id,))

        await self._db.write(job)


def _app(row: tuple[object, ...]) -> App:
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
