"""Settings of a host's network for machines, and the figures its pool reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network

from midge.errors import InvalidInput
from midge.net.ipam import DEFAULT_POOL
from midge.net.naming import is_tag
from midge.net.slot import SlotKind


@dataclass(frozen=True, kw_only=True, slots=True)
class NetConfig:
    """How one instance does its machines' network.

    Attributes:
        tag: six hex digits, see `midge.net.naming.instance_tag`.
        pool: the machines' addresses; must overlap no route of the host.
        mtu: bytes.
        tap_uid: who may open taps by name; None for root alone.
        free_low: by kind, the number of free slots under which new ones are made. Kinds left out are made on demand.
        free_high: by kind, the number of free slots up to which they are made and kept.
        slots_max: limit of all slots together.
    """

    tag: str
    pool: IPv4Network = DEFAULT_POOL
    mtu: int = 1500
    tap_uid: int | None = None
    free_low: dict[SlotKind, int] = field(default_factory=lambda: {"tap": 4})
    free_high: dict[SlotKind, int] = field(default_factory=lambda: {"tap": 8})
    slots_max: int = 4096

    def __post_init__(self) -> None:
        if not is_tag(self.tag):
            raise InvalidInput(f"instance tag {self.tag!r} is not six hex digits")
        for kind, low in self.free_low.items():
            if not 0 <= low <= self.free_high.get(kind, 0) <= self.slots_max:
                raise InvalidInput(f"watermarks of {kind} slots need 0 <= free_low <= free_high <= slots_max")


@dataclass(frozen=True, kw_only=True, slots=True)
class NetPoolStatistics:
    """Slots by state, and what happened since opening."""

    free: dict[SlotKind, int]
    taken: int
    dirty: int
    made: int
    destroyed: int
    taken_without_waiting: int
    taken_after_making: int
    firewall_restored: int
