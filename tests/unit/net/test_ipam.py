from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from midge.errors import InvalidInput, NoCapacity
from midge.net.ipam import Ipam

SMALL = Ipam(IPv4Network("10.0.0.0/29"))


def test_gives_the_lowest_free_address_and_skips_network_gateway_and_broadcast() -> None:
    used: list[IPv4Address] = []
    for _ in range(SMALL.size):
        used.append(SMALL.allocate(used))
    assert [str(address) for address in used] == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]


def test_fills_a_gap_first() -> None:
    assert SMALL.allocate({IPv4Address("10.0.0.2"), IPv4Address("10.0.0.4")}) == IPv4Address("10.0.0.3")


def test_after_the_last_one_goes_round() -> None:
    used = {IPv4Address("10.0.0.3")}
    assert SMALL.allocate(used, after=IPv4Address("10.0.0.5")) == IPv4Address("10.0.0.6")
    assert SMALL.allocate(used, after=IPv4Address("10.0.0.6")) == IPv4Address("10.0.0.2")
    assert SMALL.allocate(used, after=IPv4Address("10.0.0.2")) == IPv4Address("10.0.0.4")


def test_after_an_address_of_another_pool_starts_at_the_beginning() -> None:
    assert SMALL.allocate((), after=IPv4Address("192.168.0.1")) == IPv4Address("10.0.0.2")


def test_an_exhausted_pool_is_no_capacity() -> None:
    with pytest.raises(NoCapacity, match="all 5 addresses"):
        SMALL.allocate({IPv4Address(f"10.0.0.{n}") for n in range(8)})


def test_a_pool_without_room_is_refused() -> None:
    with pytest.raises(InvalidInput, match="too small"):
        Ipam(IPv4Network("10.0.0.0/30"))
