"""Brings the machine records in line with what the hosts have.

A record is written before its host is asked. After a crash, and whenever a machine destroyed itself, records are left
that hold nothing but a name; after the central store came back from a copy, machines are there that have no record.
The host is right in both cases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog

from midge.central.inventory import Inventory
from midge.central.machines import MachineRecord
from midge.central.store import Central

PAGE = 250  # machines looked at in one go, a few milliseconds: requests get their turn in between

_log = structlog.get_logger("midge.central")


async def reconcile(
    central: Central, inventory: Inventory, *, in_flight: Callable[[], Collection[str]] = frozenset
) -> tuple[int, int]:
    """Drops records of machines that are gone, adopts machines without a record.

    Args:
        in_flight: ids of machines whose create is under way, read at the last moment.
    Returns:
        How many were dropped and how many adopted.
    """
    known = await central.machines.ids_of_host(inventory.host)
    seen: set[str] = set()
    unknown: list[MachineRecord] = []
    after_id = ""
    while page := await inventory.page(after_id=after_id, limit=PAGE):
        for machine in page:
            seen.add(machine.record.id)
            if machine.record.id not in known and not machine.leaving:
                unknown.append(machine.record)
        after_id = page[-1].record.id
        await asyncio.sleep(0)
    # Machines come and go while the pages are read: each that makes a difference is asked for once more.
    gone = [one for one in known - seen - set(in_flight()) if not await inventory.has(one)]
    await central.machines.drop(*gone)
    adopted = 0
    for record in unknown:
        if record.id not in in_flight() and await inventory.has(record.id):
            adopted += await _adopt(central, record)
    if gone or adopted:
        _log.info("machine records reconciled", dropped=len(gone), adopted=adopted)
    return len(gone), adopted


async def _adopt(central: Central, record: MachineRecord) -> bool:
    app = await central.apps.find(record.app)
    if app is None:
        _log.warning("machine belongs to no app", machine=record.id, app=record.app)
        return False
    return await central.machines.adopt(app, record)
