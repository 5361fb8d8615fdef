from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midge.net import rtnl
from midge.net.netlink import (
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    nested,
    parse_attributes,
)


def reply(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


@contextmanager
def kernel(*answers: bytes) -> Iterator[NetlinkSocket]:
    """A socket whose other end has said this already."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, NetlinkSocket(ours) as sock:
        for answer in answers:
            theirs.send(answer)
        yield sock


def test_attributes_are_padded_and_read_back_without_flags() -> None:
    data = attribute(1, b"abc") + nested(2, attribute(3, b"x"))
    assert len(data) == 8 + 12
    found = parse_attributes(data)
    assert found[1] == b"abc"
    assert parse_attributes(found[2]) == {3: b"x"}


@given(st.binary(max_size=200))
def test_reading_attributes_never_fails_whatever_the_bytes(data: bytes) -> None:
    parse_attributes(data)


def test_a_batch_succeeds_when_every_message_is_acknowledged() -> None:
    acks = reply(2, 0, 1, bytes(20)) + reply(2, 0, 2, bytes(20))
    with kernel(acks) as sock:
        sock.request(Message(16, 0, b""), Message(16, 0, b""))


def test_a_refusal_carries_the_kernels_explanation() -> None:
    why = struct.pack("=i", -errno.EEXIST) + bytes(16) + attribute(1, b"already there\0")
    with kernel(reply(2, 0, 1, bytes(20)), reply(2, 0x300, 2, why)) as sock:
        first, second = sock.try_all([Message(16, 0, b""), Message(16, 0, b"")])
    assert first is None
    assert second is not None
    assert (second.errno, second.strerror) == (errno.EEXIST, "already there")


def test_a_late_answer_to_an_older_request_is_not_taken_for_this_one() -> None:
    with kernel(
        reply(2, 0, 0, struct.pack("=i", -errno.EPERM) + bytes(16)), reply(2, 0, 1, bytes(20))
    ) as sock:
        sock.request(Message(16, 0, b""))


def test_a_dump_goes_over_several_answers_until_done() -> None:
    one = reply(16, 2, 1, b"aaaa")
    with kernel(one + one, one, reply(3, 2, 1, bytes(4))) as sock:
        assert [payload for _, payload in sock.dump(Message(18, 0, b""))] == [b"aaaa"] * 3


def test_a_refused_dump_raises() -> None:
    with (
        kernel(reply(2, 0, 1, struct.pack("=i", -errno.EPERM) + bytes(16))) as sock,
        pytest.raises(NetlinkError),
    ):
        list(sock.dump(Message(18, 0, b"")))


def test_a_host_route_in_bytes() -> None:
    message = rtnl.add_host_route(7, IPv4Address("10.61.0.9"))
    assert (message.kind, message.flags) == (24, 0x600)
    assert message.payload.hex() == (
        "02200000fe6dfd0100000000"  # IPv4, /32, table main, protocol 109, scope link, unicast
        "080001000a3d0009"  # RTA_DST
        "0800040007000000"  # RTA_OIF
    )


def test_a_claim_in_bytes() -> None:
    message = rtnl.add_unreachable(IPv4Network("10.61.0.0/16"), 0x6D000001)
    assert message.payload.hex() == "02100000fe6d000700000000080001000a3d0000080006000100006d"


def test_a_mac_address_is_six_bytes_or_refused() -> None:
    assert rtnl.mac_bytes("02:6d:00:00:00:01") == bytes([2, 0x6D, 0, 0, 0, 1])
    with pytest.raises(ValueError, match="not a MAC address"):
        rtnl.mac_bytes("02:6d:00")
