"""Machine records: which host owns which machine, and which names are taken.

A record is written before the host is asked to create the machine and dropped when the host could not. What a crash
leaves between the two is a record whose host knows nothing of it; `midge.central.reconcile` drops those.
"""

from __future__ import annotations

import time

import apsw
import msgspec

from midge.central.apps import App
from midge.errors import NotFound
from midge.store.sqlite import Database

_COLUMNS = "m.id, a.name, m.name, m.region, m.host, m.digest, m.created_ms"
_FROM = f"SELECT {_COLUMNS} FROM machines m JOIN apps a ON a.id = m.app_id"


class MachineRecord(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    app: str
    name: str
    region: str
    host: str
    digest: str
    created_ms: int


class MachineRecords:
    def __init__(self, database: Database) -> None:
        self._db = database

    async def reserve(
        self, app: App, machine_id: str, name: str, *, region: str, host: str
    ) -> MachineRecord | None:
        """Records that the machine is about to exist; returns the record that holds the name, or None.

        Raises:
            NotFound: the app is gone or about to go.
        """
        now_ms = time.time_ns() // 1_000_000

        def job(db: apsw.Connection) -> MachineRecord | None:
            alive = db.execute("SELECT 1 FROM apps WHERE id=? AND deleting=0", (app.id,)).fetchone()
            if alive is None:
                raise NotFound("app not found")
            holder = db.execute(f"{_FROM} WHERE m.app_id=? AND m.name=?", (app.id, name)).fetchone()
            if holder is not None:
                return _record(holder)
            db.execute(
                "INSERT INTO machines(id, app_id, name, region, host, created_ms) VALUES(?,?,?,?,?,?)",
                (machine_id, app.id, name, region, host, now_ms),
            )
            return None

        return await self._db.write(job)

    async def confirm(self, machine_id: str, digest: str) -> bool:
        """The host has the machine, made from the image of this digest; False when the record is gone."""

        def job(db: apsw.Connection) -> bool:
            db.execute("UPDATE machines SET digest=? WHERE id=?", (digest, machine_id))
            return bool(db.changes())

        return await self._db.write(job)

    async def drop(self, *machine_ids: str) -> None:
        """The machines are no more: their names are free."""

        def job(db: apsw.Connection) -> None:
            db.executemany("DELETE FROM machines WHERE id=?", [(machine_id,) for machine_id in machine_ids])

        if machine_ids:
            await self._db.write(job)

    async def adopt(self, app: App, record: MachineRecord) -> bool:
        """Records a machine the host has and we do not; False when another holds its name."""

        def job(db: apsw.Connection) -> bool:
            db.execute(
                "INSERT INTO machines(id, app_id, name, region, host, digest, created_ms) VALUES(?,?,?,?,?,?,?) "
                "ON CONFLICT DO NOTHING",
                (
                    record.id,
                    app.id,
                    record.name,
                    record.region,
                    record.host,
                    record.digest,
                    record.created_ms,
                ),
            )
            return bool(db.changes())

        return await self._db.write(job)

    def find(self, machine_id: str) -> MachineRecord | None:
        row = self._db.read_one(f"{_FROM} WHERE m.id=?", (machine_id,))
        return None if row is None else _record(row)

    def ids_of_host(self, host: str) -> set[str]:
        return {row[0] for row in self._db.read("SELECT id FROM machines WHERE host=?", (host,))}


def _record(row: tuple[object, ...]) -> MachineRecord:
    return msgspec.convert(
        dict(zip(("id", "app", "name", "region", "host", "digest", "created_ms"), row, strict=True)),
        MachineRecord,
    )
