"""Brings the machine records in line with what the hosts have.

A record is written before its host is asked. After a crash, and whenever a machine destroyed itself, records are left
that hold nothing but a name; after the central store came back from a copy, machines are there that have no record.
The host is right in both cases.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog

from midge.central.machines import MachineRecord
from midge.central.store import Central
from midge.errors import NotFound
from midge.worker.host import Host

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
    known = {record.id for record in central.machines.of_host(host_name)}
    gone = [machine_id for machine_id in known - set(in_flight()) if _is_gone(host, machine_id)]
    await central.machines.drop(*gone)
    adopted = 0
    for view in host.list():
        if view.id in known or view.id in in_flight() or view.state == "destroying":
            continue
        app = central.apps.find(view.app)
        if app is None:
            _log.warning("machine belongs to no app", machine=view.id, app=view.app)
            continue
        record = MachineRecord(
            id=view.id,
            app=view.app,
            name=view.name,
            region=view.region,
            host=host_name,
            digest=view.image_ref.digest,
            created_ms=view.created_at_ns // 1_000_000,
        )
        adopted += await central.machines.adopt(app, record)
    if gone or adopted:
        _log.info("machine records reconciled", dropped=len(gone), adopted=adopted)
    return len(gone), adopted


def _is_gone(host: Host, machine_id: str) -> bool:
    try:
        return host.get(machine_id).state == "destroyed"
    except NotFound:
        return True
