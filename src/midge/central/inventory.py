"""What the central store asks of a host: which machines it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from midge.central.machines import MachineRecord


class HostedMachine(msgspec.Struct, kw_only=True, frozen=True):
    """A machine as its host knows it. `leaving`: it is being destroyed."""

    record: MachineRecord
    leaving: bool


class Inventory(Protocol):
    """The machines of one host that are not destroyed.

    Attributes:
        host: its name.
    """

    host: str

    async def page(self, *, after_id: str, limit: int) -> Sequence[HostedMachine]:
        """The next of them by id, at most `limit`; none when there are no more."""
        ...

    async def has(self, machine_id: str) -> bool: ...
