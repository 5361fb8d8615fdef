"""Machine records: which host owns which machine, and which names are taken.

A record is written before the host is asked to create the machine and dropped when the host could not. What a crash
leaves between the two is a record whose host knows nothing of it; `midge.central.reconcile` drops those.
"""

from __future__ import annotations

import msgspec

from midge.central.apps import App
from midge.central.database import CentralDatabase, Row, Transaction
from midge.clock import Clock, now_ms
from midge.errors import Conflict, NotFound

# Of one reservation: more than one try is needed only if the name's holder goes between two statements.
RESERVE_TRIES_MAX = 3

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
    def __init__(self, database: CentralDatabase, clock: Clock) -> None:
        self._db = database
        self._clock = clock

    async def reserve(
        self, app: App, machine_id: str, name: str, *, region: str, host: str
    ) -> MachineRecord | None:
        """Records that the machine is about to exist; returns the record that holds the name, or None.

        Raises:
            NotFound: the app is gone or about to go.
        """
        created_ms = now_ms(self._clock)

        async def job(tx: Transaction) -> MachineRecord | None:
            for _ in range(RESERVE_TRIES_MAX):
                await _check_alive(tx, app)
                added = await tx.fetch_one(
                    "INSERT INTO machines(id, app_id, name, region, host, created_ms) "
                    "VALUES($1,$2,$3,$4,$5,$6) ON CONFLICT DO NOTHING RETURNING id",
                    machine_id,
                    app.id,
                    name,
                    region,
                    host,
                    created_ms,
                )
                if added is not None:
                    return None
                holder = await tx.fetch_one(f"{_FROM} WHERE m.app_id=$1 AND m.name=$2", app.id, name)
                if holder is not None:
                    return _record(holder)
            raise Conflict(f"aborted: the name {name!r} is taken and given up all the time", hint="try again")

        return await self._db.transact(job)

    async def confirm(self, machine_id: str, digest: str) -> bool:
        """The host has the machine, made from the image of this digest; False when the record is gone."""

        async def job(tx: Transaction) -> bool:
            updated = await tx.fetch_one(
                "UPDATE machines SET digest=$1 WHERE id=$2 RETURNING id", digest, machine_id
            )
            return updated is not None

        return await self._db.transact(job)

    async def drop(self, *machine_ids: str) -> None:
        """The machines are no more: their names are free."""

        async def job(tx: Transaction) -> None:
            for machine_id in machine_ids:
                await tx.fetch("DELETE FROM machines WHERE id=$1", machine_id)

        if machine_ids:
            await self._db.transact(job)

    async def adopt(self, app: App, record: MachineRecord) -> bool:
        """Records a machine the host has and we do not; False when another holds its name."""

        async def job(tx: Transaction) -> bool:
            added = await tx.fetch_one(
                "INSERT INTO machines(id, app_id, name, region, host, digest, created_ms) "
                "VALUES($1,$2,$3,$4,$5,$6,$7) ON CONFLICT DO NOTHING RETURNING id",
                record.id,
                app.id,
                record.name,
                record.region,
                record.host,
                record.digest,
                record.created_ms,
            )
            return added is not None

        return await self._db.transact(job)

    async def find(self, machine_id: str) -> MachineRecord | None:
        row = await self._db.fetch_one(f"{_FROM} WHERE m.id=$1", machine_id)
        return None if row is None else _record(row)

    async def ids_of_host(self, host: str) -> set[str]:
        return {row[0] for row in await self._db.fetch("SELECT id FROM machines WHERE host=$1", host)}


async def _check_alive(tx: Transaction, app: App) -> None:
    """Raises NotFound. Otherwise the app stays as it is until the transaction ends."""
    alive = await tx.fetch_one(f"SELECT 1 FROM apps WHERE id=$1 AND deleting=0{tx.for_share}", app.id)
    if alive is None:
        raise NotFound("app not found")


def _record(row: Row) -> MachineRecord:
    return msgspec.convert(
        dict(zip(("id", "app", "name", "region", "host", "digest", "created_ms"), row, strict=True)),
        MachineRecord,
    )
