"""Names and addresses everything on the host side of a machine's network is recognised by.

All of it carries the instance's tag, so that several Midges on one host never touch each other's::

    mg-3fa9c1-17          network namespace, in /run/netns
    mg3fa9c117            host end of its veth pair
    midge_3fa9c1          nftables table
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address
from pathlib import Path

# Any Midge's interfaces begin so: the firewall of one keeps its machines from those of all.
INTERFACE_PREFIX = "mg"
# The kernel's IFNAMSIZ without the terminating zero.
INTERFACE_NAME_BYTES_MAX = 15
# Hex digits of a tag; leaves seven for the slot's number in an interface's name.
_TAG_DIGITS = 6
# Of a slot's number. A VMM's user is made of it (`midge.drivers.vmm_user`), so two slots never differ above these bits.
SLOT_NUMBER_BITS = 14
SLOT_NUMBER_MAX = (1 << SLOT_NUMBER_BITS) - 1

# What machines see as their router. Link-local, so it cannot collide with an address pool, and the same for all, with
# the same MAC: a guest restored from a snapshot finds its neighbour table right.
GATEWAY = IPv4Address("169.254.0.1")
GATEWAY_MAC = "02:6d:67:00:00:01"


def instance_tag(data_dir: Path) -> str:
    """Six hex digits for the Midge that keeps its data there."""
    return hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:_TAG_DIGITS]


def is_tag(text: str) -> bool:
    return len(text) == _TAG_DIGITS and all(c in "0123456789abcdef" for c in text)


def netns_name(tag: str, number: int) -> str:
    return f"mg-{tag}-{number}"


def slot_number(tag: str, name: str) -> int | None:
    """The number in a namespace's name, None if the name is not one of this instance's."""
    digits = name.removeprefix(f"mg-{tag}-")
    if digits == name or not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits)


def host_interface(tag: str, number: int) -> str:
    return f"{interface_prefix(tag)}{number}"


def interface_prefix(tag: str) -> str:
    return INTERFACE_PREFIX + tag


def table_name(tag: str) -> str:
    return f"midge_{tag}"


def instance_number(tag: str) -> int:
    """The tag where the kernel takes 32 bits (route metric, link group): "m" and the tag, so it names its owner."""
    return ord("m") << 24 | int(tag, 16)


def machine_mac(address: IPv4Address) -> str:
    """The MAC of the machine with this address: locally administered, and unique where the address is."""
    return "02:6d:" + ":".join(f"{byte:02x}" for byte in address.packed)
