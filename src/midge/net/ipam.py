"""Which IPv4 address a machine gets: a pure function of the pool and of what is in use."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from midge.errors import InvalidInput, NoCapacity

DEFAULT_POOL = IPv4Network("10.61.0.0/16")
# A /29 is the smallest pool with an address left (five) beside network, first host address and broadcast.
_PREFIX_MAX = 29


@dataclass(frozen=True, slots=True)
class Ipam:
    """Allocates single addresses from `pool`.

    Skipped: network, broadcast, and the first host address, which is kept for the host's own services. Where many
    addresses are in use, pass a set.
    """

    pool: IPv4Network = DEFAULT_POOL

    def __post_init__(self) -> None:
        if self.pool.prefixlen > _PREFIX_MAX:
            raise InvalidInput(
                f"address pool {self.pool} is too small", hint=f"use a /{_PREFIX_MAX} or larger"
            )

    @property
    def size(self) -> int:
        """How many machines the pool has addresses for."""
        return self.pool.num_addresses - 3

    def allocate(self, used: Collection[IPv4Address], *, after: IPv4Address | None = None) -> IPv4Address:
        """The lowest free address; with `after`, the next free one above it, going round once.

        Passing the last address given out as `after` keeps an address unused for as long as possible, so that
        peers which still talk to its former owner do not reach the new one. Raises: NoCapacity.
        """
        first = int(self.pool.network_address) + 2
        start = 0 if after is None or after not in self.pool else max(0, int(after) + 1 - first)
        for step in range(self.size):
            candidate = IPv4Address(first + (start + step) % self.size)
            if candidate not in used:
                return candidate
        raise NoCapacity(
            f"all {self.size} addresses of pool {self.pool} are in use",
            hint="destroy machines, or give this host a larger address pool",
        )
