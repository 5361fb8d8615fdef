"""Brings the machine records in line with what the hosts have.

A record is written before its host is asked. After a crash, and whenever a machine destroyed itself, records are left
that hold nothing but a name; after the central store came back from a copy, machines are there that have no record.
The host is right in both cases.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection

import structlog

from midge.central.machines import MachineRecord
from midge.central.store import Central
from midge.errors import NotFound
from midge.worker.host import Host, MachineView

PAGE = 250  # machines looked at in one go, a few milliseconds: requests get their turn in between

_log = structlog.get_logger("midge.central")


async def reconcile(
    central: Central, host: Host, *, in_flight: Callable[[], Collection[str]] = frozenset
) -> tuple[int, int]:
    """Drops records of machines that are gone, adopts machines without a record.

    Args:
        in_flight: ids of machines whose create is under way, read at the last moment.
    Returns:
        How many were dropped and how many adopted.
    """
    host_name = host.status().name
    known = central.machines.ids_of_host(host_name)
    seen: set[str] = set()
    unknown: list[MachineView] = []
    async for view in _machines(host):
        seen.add(view.id)
        if view.id not in known and view.state != "destroying":
            unknown.append(view)
    # Machines come and go while the pages are read: each that makes a difference is asked for once more.
    gone = [machine_id for machine_id in known - seen - set(in_flight()) if _is_gone(host, machine_id)]
    await central.machines.drop(*gone)
    adopted = 0
    for view in unknown:
        if view.id not in in_flight() and not _is_gone(host, view.id):
            adopted += await _adopt(central, view, host_name)
    if gone or adopted:
        _log.info("machine records reconciled", dropped=len(gone), adopted=adopted)
    return len(gone), adopted


async def _adopt(central: Central, view: MachineView, host_name: str) -> bool:
    app = central.apps.find(view.app)
    if app is None:
        _log.warning("machine belongs to no app", machine=view.id, app=view.app)
        return False
    record = MachineRecord(
        id=view.id,
        app=view.app,
        name=view.name,
        region=view.region,
        host=host_name,
        digest=view.image_ref.digest,
        created_ms=view.created_at_ns // 1_000_000,
    )
    return await central.machines.adopt(app, record)


async def _machines(host: Host) -> AsyncIterator[MachineView]:
    """Those that exist, by id."""
    page = host.list(limit=PAGE)
    while page:
        for view in page:
            yield view
        await asyncio.sleep(0)
        page = host.list(after_id=page[-1].id, limit=PAGE)


def _is_gone(host: Host, machine_id: str) -> bool:
    try:
        return host.get(machine_id).state == "destroyed"
    except NotFound:
        return True
