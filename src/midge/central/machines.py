"""Machine records: which host owns which machine, and which names are taken.

A record is written before the host is asked to create the machine: until the host has said that it has it, the record
is a reservation, which ends by itself. It is dropped when the host could not. What a crash leaves between the two is
a reservation that has ended; `midge.central.reconcile` asks the host, and confirms or drops it.
"""

from __future__ import annotations

import msgspec

from midge.central.apps import App
from midge.central.database import CentralDatabase, Row, Transaction
from midge.clock import Clock, now_ms
from midge.errors import Conflict, NotFound

# How long a create may take before its name is given to another, seconds: more than a registry needs to say which
# image a tag means. Until then a create that died keeps its name from being used.
RESERVATION_TTL_S = 300
# Of one reservation: more than one try is needed only if the name's holder goes between two statements.
RESERVE_TRIES_MAX = 3

_COLUMNS = "m.id, a.name, m.name, m.region, m.host, m.digest, m.created_ms, m.reserved_until_ms"
_FROM = f"SELECT {_COLUMNS} FROM machines m JOIN apps a ON a.id = m.app_id"


class MachineRecord(msgspec.Struct, kw_only=True, frozen=True):
    """`reserved_until_ms` None: its host has the machine."""

    id: str
    app: str
    name: str
    region: str
    host: str
    digest: str
    created_ms: int
    reserved_until_ms: int | None = None


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
                    "INSERT INTO machines(id, app_id, name, region, host, created_ms, reserved_until_ms) "
                    "VALUES($1,$2,$3,$4,$5,$6,$7) ON CONFLICT DO NOTHING RETURNING id",
                    machine_id,
                    app.id,
                    name,
                    region,
                    host,
                    created_ms,
                    created_ms + RESERVATION_TTL_S * 1000,
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
                "UPDATE machines SET digest=$1, reserved_until_ms=NULL WHERE id=$2 RETURNING id",
                digest,
                machine_id,
            )
            return updated is not None

        return await self._db.transact(job)

    def is_reserved(self, record: MachineRecord) -> bool:
        """Its create is under way: whether the host knows the machine says nothing yet."""
        return record.reserved_until_ms is not None and record.reserved_until_ms > now_ms(self._clock)

    async def end_reservations(self) -> None:
        """Whoever made them is no more: all that are not confirmed have ended."""

        async def job(tx: Transaction) -> None:
            await tx.fetch("UPDATE machines SET reserved_until_ms=0 WHERE reserved_until_ms IS NOT NULL")

        await self._db.transact(job)

    async def drop(self, *machine_ids: str) -> None:
        """The machines are no more: their names are free."""

        async def job(tx: Transaction) -> None:
            for machine_id in machine_ids:
                await tx.fetch("DELETE FROM machines WHERE id=$1", machine_id)

        if machine_ids:
            await self._db.transact(job)

    async def drop_as_read(self, *records: MachineRecord) -> None:
        """The machines were found to be no more; a record that was confirmed since it was read stays."""

        async def job(tx: Transaction) -> None:
            for record in records:
                await tx.fetch(
                    "DELETE FROM machines WHERE id=$1 AND reserved_until_ms IS NOT DISTINCT FROM $2",
                    record.id,
                    record.reserved_until_ms,
                )

        if records:
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

    async def of_host(self, host: str) -> dict[str, MachineRecord]:
        """By id."""
        records = map(_record, await self._db.fetch(f"{_FROM} WHERE m.host=$1", host))
        return {record.id: record for record in records}


async def _check_alive(tx: Transaction, app: App) -> None:
    """Raises NotFound. Otherwise the app stays as it is until the transaction ends."""
    alive = await tx.fetch_one(f"SELECT 1 FROM apps WHERE id=$1 AND deleting=0{tx.for_share}", app.id)
    if alive is None:
        raise NotFound("app not found")


def _record(row: Row) -> MachineRecord:
    return msgspec.convert(
        dict(zip(MachineRecord.__struct_fields__, row, strict=True)),
        MachineRecord,
    )
