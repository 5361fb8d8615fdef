"""Forgets the connections of an address, so that the next machine with it does not inherit them.

ctnetlink (linux/netfilter/nfnetlink_conntrack.h): the table is listed with the kernel's own filter on the address where
it knows one (Linux 5.8), and each entry found is deleted by its tuple.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

from midge.net.netlink import (
    NETLINK_NETFILTER,
    Message,
    NetlinkSocket,
    attribute,
    nested,
    parse_attributes,
    u32,
)

_SUBSYSTEM = 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_NFGENMSG = struct.Struct("=BBH")  # family, version, resource id
_AF_INET = 2
_HEADER = _NFGENMSG.pack(_AF_INET, 0, 0)

_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_ZONE, _CTA_FILTER = 1, 2, 18, 25
_CTA_TUPLE_IP, _CTA_IP_V4_SRC, _CTA_IP_V4_DST = 1, 1, 2
_CTA_FILTER_ORIG_FLAGS, _CTA_FILTER_REPLY_FLAGS = 1, 2
_FLAG_IP_SRC = 1

_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
# Connections up to which one full listing is cheaper than two filtered by the kernel (about 5 us each to read).
_UNFILTERED_MAX = 1000
# Linux says so when it was built without ctnetlink, or the module may not be loaded.
_NOT_THERE = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT)


def forget(address: IPv4Address) -> int:
    """Deletes every tracked IPv4 connection from or to `address`; returns how many. Raises: OSError.

    The machine is the source either of the original direction (it called) or of the reply (it was called). A listing
    walks the host's whole hash table, some milliseconds even when that is empty, hence at most two and often none.
    """
    tracked = _tracked()
    if tracked == 0:
        return 0
    try:
        with NetlinkSocket.open(NETLINK_NETFILTER) as sock:
            if tracked is not None and tracked <= _UNFILTERED_MAX:
                found = set(_matching(sock.dump(Message(_GET, 0, _HEADER)), address))
            else:
                found = {
                    entry
                    for direction in (_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY)
                    for entry in _matching(sock.dump(_filtered(direction, address)), address)
                }
            verdicts = sock.try_all([Message(_DELETE, 0, _HEADER + entry) for entry in found])
    except OSError as error:
        if error.errno in _NOT_THERE:
            return 0
        raise
    for verdict in verdicts:
        if verdict is not None and verdict.errno != errno.ENOENT:
            raise verdict
    return len(found)


def _tracked() -> int | None:
    """How many connections the namespace tracks; 0 without connection tracking, None if it does not say."""
    try:
        return int(_COUNT.read_text())
    except FileNotFoundError:
        return 0
    except (OSError, ValueError):
        return None


def _filtered(direction: int, address: IPv4Address) -> Message:
    """Lists the connections whose `direction` has `address` as its source; older kernels list all."""
    own, other = _CTA_FILTER_ORIG_FLAGS, _CTA_FILTER_REPLY_FLAGS
    if direction == _CTA_TUPLE_REPLY:
        own, other = other, own
    addresses = nested(_CTA_TUPLE_IP, attribute(_CTA_IP_V4_SRC, address.packed))
    kernel_filter = nested(_CTA_FILTER, u32(own, _FLAG_IP_SRC), u32(other, 0))
    return Message(_GET, 0, _HEADER + nested(direction, addresses) + kernel_filter)


def _matching(entries: Iterable[tuple[int, bytes]], address: IPv4Address) -> Iterator[bytes]:
    """The attributes that name each connection with `address` as a source."""
    for _, payload in entries:
        attributes = parse_attributes(payload[_NFGENMSG.size :])
        original = attributes.get(_CTA_TUPLE_ORIG, b"")
        if address.packed in (_source(original), _source(attributes.get(_CTA_TUPLE_REPLY, b""))):
            zone = attributes.get(_CTA_ZONE)
            yield nested(_CTA_TUPLE_ORIG, original) + (attribute(_CTA_ZONE, zone) if zone else b"")


def _source(tuple_: bytes) -> bytes:
    addresses = parse_attributes(tuple_).get(_CTA_TUPLE_IP, b"")
    return parse_attributes(addresses).get(_CTA_IP_V4_SRC, b"")
