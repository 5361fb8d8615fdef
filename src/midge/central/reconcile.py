"""Brings the machine records in line with what the hosts have.

A record is written, as a reservation, before its host is asked. After a crash, and whenever a machine destroyed
itself, records are left that hold nothing but a name; after the central store came back from a copy, machines are
there that have no record. The host is right in both cases.
"""

from __future__ import annotations

import asyncio

import structlog

from midge.central.inventory import Inventory
from midge.central.machines import MachineRecord
from midge.central.store import Central

PAGE = 250  # machines looked at in one go, a few milliseconds: requests get their turn in between

_log = structlog.get_logger("midge.central")


async def reconcile(central: Central, inventory: Inventory) -> tuple[int, int]:
    """Drops records of machines that are gone, adopts machines without a record.

    A reservation is left alone until it ends; then the host says whether it is confirmed or dropped.

    Returns:
        How many were dropped and how many adopted.
    """
    known = await central.machines.of_host(inventory.host)
    seen: set[str] = set()
    unknown: list[MachineRecord] = []
    after_id = ""
    while page := await inventory.page(after_id=after_id, limit=PAGE):
        for machine in page:
            seen.add(machine.record.id)
            record = known.get(machine.record.id)
            if record is None:
                if not machine.leaving:
                    unknown.append(machine.record)
            elif record.reserved_until_ms is not None and not central.machines.is_reserved(record):
                await central.machines.confirm(record.id, machine.record.digest)
        after_id = page[-1].record.id
        await asyncio.sleep(0)
    # Machines come and go while the pages are read: each that makes a difference is asked for once more.
    unseen = [known[one] for one in known.keys() - seen if not central.machines.is_reserved(known[one])]
    gone = [record for record in unseen if not await inventory.has(record.id)]
    await central.machines.drop_as_read(*gone)
    adopted = 0
    for record in unknown:
        if await inventory.has(record.id):
            adopted += await _adopt(central, record)
    if gone or adopted:
        _log.info("machine records reconciled", dropped=len(gone), adopted=adopted)
    return len(gone), adopted


async def _adopt(central: Central, record: MachineRecord) -> bool:
    app = await central.apps.find(record.app)
    if app is None:
        _log.warning("machine belongs to no app", machine=record.id, app=record.app)
        return False
    if record.created_ms < app.created_ms:
        # Hosts know apps by name. It was asked for in an app that is gone; whoever has the name now must not get it.
        _log.warning("machine is older than the app of that name", machine=record.id, app=record.app)
        return False
    return await central.machines.adopt(app, record)
