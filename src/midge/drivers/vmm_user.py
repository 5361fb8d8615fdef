"""Which user a VMM runs as: one of its own, by the network slot it is in.

A host's slots have numbers, and their instance's tag tells them from those of another instance on the host. A machine's
address would not do: it can be of another family, and two instances may use the same range.
"""

from __future__ import annotations

from midge.net.naming import SLOT_NUMBER_BITS

# Each driver's users are a range of their own above those of people and user namespaces (login.defs, subuid).
QEMU_UID_BASE = 0x60000000
FIRECRACKER_UID_BASE = 0x64000000
_TAG_BITS = 12
UIDS = 1 << (_TAG_BITS + SLOT_NUMBER_BITS)  # of one driver


def slot_uid(base: int, tag: str, number: int) -> int:
    """User and group of the VMM in a slot.

    Args:
        base: of the driver.
        tag: of the instance, hexadecimal digits; see `midge.net.config.NetConfig`.
        number: of the slot.
    """
    instance = int(tag, 16) & ((1 << _TAG_BITS) - 1)
    return base + (instance << SLOT_NUMBER_BITS) + (number & ((1 << SLOT_NUMBER_BITS) - 1))
