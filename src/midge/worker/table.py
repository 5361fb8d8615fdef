"""The host's tables: rows to machines and back. SQL lives here and nowhere else in the worker."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec
import structlog

from midge.drivers.base import Handle
from midge.lifecycle.admission import Lease
from midge.machine.config import MachineConfig
from midge.operations.model import Run
from midge.store.sqlite import Database
from midge.worker.arrivals import Moment
from midge.worker.host import EventView, ImageRefView
from midge.worker.operations.journal import decode_input, decode_outputs
from midge.worker.record import ImageProcess, Machine, shape_of

_log = structlog.get_logger("midge.worker")

EVENTS_KEPT = 100  # a machine; older ones are dropped
RUNS_KEPT = 20  # finished operations a machine, for `events --phases`
PRUNE_EVERY = 16  # changes of a machine: looking for what is too old costs as much as a change itself

_encode = msgspec.json.encode


def _text(value: Any) -> str:
    return _encode(value).decode()


_lease_decoder = msgspec.json.Decoder(Lease)
_handle_decoder = msgspec.json.Decoder(Handle)
_image_ref_decoder = msgspec.json.Decoder(ImageRefView)
_image_process_decoder = msgspec.json.Decoder(ImageProcess)
_config_decoder = msgspec.json.Decoder(MachineConfig)

_MACHINE_COLUMNS = (
    "id, app, name, region, state, version, config, image_ref, image_config, ipv4, mac, created_at_ns, "
    "updated_at_ns, cordoned, seq, handle, snapshot, lease, retries_s, destroyed_at_ns"
)
_RUN_COLUMNS = "id, subject, kind, input, step, outputs, state, error, phases, started_at_ns, finished_at_ns"

_PUT_RUN = (
    f"INSERT INTO operations({_RUN_COLUMNS}) VALUES({','.join('?' * 11)}) ON CONFLICT(id) DO UPDATE SET "
    "step=excluded.step, outputs=excluded.outputs, state=excluded.state, error=excluded.error, "
    "phases=excluded.phases, finished_at_ns=excluded.finished_at_ns"
)


def insert_machine(connection: apsw.Connection, machine: Machine) -> None:
    connection.execute(
        f"INSERT INTO machines({_MACHINE_COLUMNS}) VALUES({','.join('?' * 20)})", _machine_row(machine)
    )
    insert_version(connection, machine.id, machine.version, machine.config_json)


def insert_version(
    connection: apsw.Connection, machine_id: str, version: str, config: bytes, *, replace: bool = False
) -> None:
    """Adds a version; `replace` rewrites its configuration (metadata change without a new version)."""
    conflict = "REPLACE" if replace else "IGNORE"
    connection.execute(f"INSERT OR {conflict} INTO versions VALUES(?,?,?)", (machine_id, version, config))


def delete_version(connection: apsw.Connection, machine_id: str, version: str) -> None:
    connection.execute("DELETE FROM versions WHERE machine_id=? AND version=?", (machine_id, version))


def _machine_row(machine: Machine) -> tuple[Any, ...]:
    return (
        machine.id,
        machine.app,
        machine.name,
        machine.region,
        machine.state,
        machine.version,
        machine.config_json,
        _text(machine.image_ref),
        _text(machine.image_process),
        machine.ipv4 or None,
        machine.mac,
        machine.created_at_ns,
        machine.updated_at_ns,
        int(machine.cordoned),
        machine.seq,
        *_mutable(machine),
        machine.destroyed_at_ns,
    )


def _mutable(machine: Machine) -> tuple[Any, ...]:
    return (
        _text(machine.handle) if machine.handle else None,
        _text(machine.snapshot) if machine.snapshot else None,
        _text(machine.lease) if machine.lease else None,
        _text(machine.retries_s),
    )


def hot_columns(machine: Machine) -> tuple[Any, ...]:
    """What a change of state writes. Taken on the loop, so that the writer thread sees one moment."""
    return (
        machine.state,
        machine.updated_at_ns,
        machine.seq,
        *_mutable(machine),
        machine.destroyed_at_ns,
        int(machine.cordoned),
        machine.ipv4 or None,
        machine.id,
    )


def update_hot(connection: apsw.Connection, columns: tuple[Any, ...]) -> None:
    connection.execute(
        "UPDATE machines SET state=?, updated_at_ns=?, seq=?, handle=?, snapshot=?, lease=?, retries_s=?, "
        "destroyed_at_ns=?, cordoned=?, ipv4=? WHERE id=?",
        columns,
    )


def all_columns(machine: Machine) -> tuple[Any, ...]:
    """As `hot_columns`, with all that an update of the configuration changes."""
    return (*_machine_row(machine)[1:], machine.id)


def update_all(connection: apsw.Connection, columns: tuple[Any, ...]) -> None:
    names = [name.strip() for name in _MACHINE_COLUMNS.split(",")][1:]
    connection.execute(f"UPDATE machines SET {','.join(f'{n}=?' for n in names)} WHERE id=?", columns)


def delete_machine(connection: apsw.Connection, machine_id: str) -> None:
    """Forgets a destroyed machine: the row, its versions, events and operations."""
    connection.execute("DELETE FROM operations WHERE subject=?", (machine_id,))
    connection.execute("DELETE FROM machines WHERE id=?", (machine_id,))


def read_versions(database: Database, machine_id: str) -> list[tuple[str, bytes]]:
    """(version, configuration) pairs, newest first: versions are ULIDs."""
    rows = database.read(
        "SELECT version, config FROM versions WHERE machine_id=? ORDER BY version DESC", (machine_id,)
    )
    return [(row[0], row[1]) for row in rows]


def load_machines(database: Database) -> list[Machine]:
    return [_machine(row) for row in database.read(f"SELECT {_MACHINE_COLUMNS} FROM machines ORDER BY id")]


def _machine(row: tuple[Any, ...]) -> Machine:
    return Machine(
        id=row[0],
        app=row[1],
        name=row[2],
        region=row[3],
        state=row[4],
        version=row[5],
        config_json=row[6],
        image_ref=_image_ref_decoder.decode(row[7]),
        image_process=_image_process_decoder.decode(row[8]),
        ipv4=row[9] or "",
        mac=row[10],
        created_at_ns=row[11],
        updated_at_ns=row[12],
        cordoned=bool(row[13]),
        seq=row[14],
        memory_mb=shape_of(_config_decoder.decode(row[6])).memory_mb,
        handle=_handle_decoder.decode(row[15]) if row[15] else None,
        snapshot=msgspec.json.decode(row[16]) if row[16] else None,
        lease=_lease_decoder.decode(row[17]) if row[17] else None,
        retries_s=tuple(msgspec.json.decode(row[18])),
        destroyed_at_ns=row[19],
    )


def moment_columns(machine: Machine) -> tuple[Any, ...]:
    """What an event that is written together with the machine says about it."""
    return (machine.id, machine.state, machine.version, machine.seq)


def insert_event(connection: apsw.Connection, moment: tuple[Any, ...], event: EventView) -> None:
    """`moment` as of `moment_columns`."""
    request = _text(event.request) if event.request is not None else None
    connection.execute(
        "INSERT INTO events(machine_id, state, version, seq, id, type, status, source, at_ms, request) "
        "VALUES(?,?,?,?,?,?,?,?,?,?)",
        (*moment, event.id, event.type, event.status, event.source, event.timestamp, request),
    )


def prune(connection: apsw.Connection, machine_id: str) -> None:
    """Keeps the newest events and operations of a machine; what came since the last time is above the limits."""
    connection.execute(
        "DELETE FROM events WHERE machine_id=?1 AND id < "
        "(SELECT id FROM events WHERE machine_id=?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        (machine_id, EVENTS_KEPT - 1),
    )
    connection.execute(
        "DELETE FROM operations WHERE subject=?1 AND state<>'running' AND id < "
        "(SELECT id FROM operations WHERE subject=?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        (machine_id, RUNS_KEPT - 1),
    )


def read_moments(database: Database, machine_id: str, first_id: str) -> list[Moment]:
    """Of this event and all later ones, oldest first."""
    rows = database.read(
        "SELECT id, state, version, seq FROM events WHERE machine_id=? AND id>=? AND seq IS NOT NULL ORDER BY id",
        (machine_id, first_id),
    )
    return [Moment(*row) for row in rows]


def read_events(database: Database, machine_id: str, limit: int) -> list[EventView]:
    """Newest first."""
    rows = database.read(
        "SELECT id, type, status, source, at_ms, request FROM events WHERE machine_id=? ORDER BY id DESC LIMIT ?",
        (machine_id, limit),
    )
    return [
        EventView(
            id=row[0],
            type=row[1],
            status=row[2],
            source=row[3],
            timestamp=row[4],
            request=msgspec.json.decode(row[5]) if row[5] else None,
        )
        for row in rows
    ]


def run_columns(run: Run) -> tuple[Any, ...]:
    return (
        run.id,
        run.subject,
        run.kind,
        _text(run.input),
        run.step,
        _text(run.outputs),
        run.state,
        _text(run.error) if run.error else None,
        _text(run.phases),
        run.started_at_ns,
        run.finished_at_ns or None,
    )


def put_run(connection: apsw.Connection, columns: tuple[Any, ...]) -> None:
    """Writes a run as it is now: its beginning, the outcome of a step, or its end."""
    connection.execute(_PUT_RUN, columns)


class Unreadable(msgspec.Struct, kw_only=True, frozen=True):
    """A row of the journal that no version of Midge has written, or that is damaged.

    Attributes:
        handle_version: of the handle in it; None where there is none to be seen.
    """

    id: str
    subject: str
    kind: str
    reason: str
    started_at_ns: int
    handle_version: int | None = None


def load_running(database: Database) -> tuple[dict[str, Run], list[Unreadable]]:
    """Runs that nobody finished, by subject, and those that cannot be read. A subject has one of either at most."""
    return _readable(database.read(f"SELECT {_RUN_COLUMNS} FROM operations WHERE state='running'"))


def load_last(database: Database) -> dict[str, Run]:
    """The newest run of each subject, where it could be followed by another; without those that cannot be read."""
    runs, _ = _readable(
        database.read(
            f"SELECT {_RUN_COLUMNS} FROM operations o WHERE state='done' AND kind IN ('create','stop') "
            "AND id=(SELECT max(id) FROM operations WHERE subject=o.subject)"
        )
    )
    return runs


def read_runs(database: Database, subject: str, limit: int) -> list[Run]:
    """The newest runs of a subject, newest first, without those that cannot be read."""
    rows = database.read(
        f"SELECT {_RUN_COLUMNS} FROM operations WHERE subject=? ORDER BY id DESC LIMIT ?", (subject, limit)
    )
    return [run for run in map(_run_or_reason, rows) if isinstance(run, Run)]


def _readable(rows: list[tuple[Any, ...]]) -> tuple[dict[str, Run], list[Unreadable]]:
    """By subject. One damaged row must not keep the worker from all its other machines."""
    runs: dict[str, Run] = {}
    unreadable: list[Unreadable] = []
    for found in map(_run_or_reason, rows):
        if isinstance(found, Run):
            runs[found.subject] = found
        else:
            unreadable.append(found)
    return runs, unreadable


def _run_or_reason(row: tuple[Any, ...]) -> Run | Unreadable:
    try:
        return _run(row)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        _log.error("operation cannot be read", machine=row[1], kind=row[2], operation=row[0], error=reason)
        return Unreadable(
            id=row[0],
            subject=row[1],
            kind=row[2],
            reason=reason,
            started_at_ns=row[9],
            handle_version=_handle_version(row[5]),
        )


def _handle_version(outputs: str | bytes) -> int | None:
    """Of a handle that may have members this version does not know."""
    try:
        version = msgspec.json.decode(outputs)["launch"]["handle"]["version"]
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return None
    return version if isinstance(version, int) else None


def _run(row: tuple[Any, ...]) -> Run:
    return Run(
        id=row[0],
        subject=row[1],
        kind=row[2],
        input=decode_input(row[2], row[3]),
        step=row[4],
        outputs=decode_outputs(row[5]),
        state=row[6],
        error=msgspec.json.decode(row[7]) if row[7] else None,
        phases=[(name, ms) for name, ms in msgspec.json.decode(row[8])] if row[8] else [],
        started_at_ns=row[9],
        finished_at_ns=row[10] or 0,
        resumed=True,
    )
