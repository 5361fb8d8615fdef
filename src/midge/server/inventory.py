"""The machines of a host, for the central store."""

from __future__ import annotations

from collections.abc import Sequence

from midge.central.inventory import HostedMachine
from midge.central.machines import MachineRecord
from midge.errors import NotFound
from midge.worker.host import Host, MachineView


class HostInventory:
    """A `midge.central.inventory.Inventory` of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.host = host.status().name

    async def page(self, *, after_id: str, limit: int) -> Sequence[HostedMachine]:
        return [self._hosted(view) for view in self._host.list(after_id=after_id, limit=limit)]

    async def has(self, machine_id: str) -> bool:
        try:
            return self._host.get(machine_id).state != "destroyed"
        except NotFound:
            return False

    def _hosted(self, view: MachineView) -> HostedMachine:
        record = MachineRecord(
            id=view.id,
            app=view.app,
            name=view.name,
            region=view.region,
            host=self.host,
            digest=view.image_ref.digest,
            created_ms=view.created_at_ns // 1_000_000,
        )
        return HostedMachine(record=record, leaving=view.state == "destroying")
