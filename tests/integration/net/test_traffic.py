"""What may reach what. Where a packet must not arrive, a permitted one is sent after it: only that one arrives."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest

from midge.net import conntrack, netns, rtnl, tap
from midge.net.naming import GATEWAY, GATEWAY_MAC, machine_mac
from midge.net.netlink import NetlinkSocket
from midge.net.pool import NetPool
from midge.net.rtnl import mac_bytes
from midge.net.slot import NetSlot

from .conftest import ARRIVAL_S, HOST, METADATA, OUTSIDE, Lab, run_ip, udp

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.anyio]

A, B = IPv4Address("10.61.0.2"), IPv4Address("10.61.0.3")


@pytest.fixture
async def pool(lab: Lab) -> AsyncIterator[NetPool]:
    async with NetPool(lab.config()) as pool:
        yield pool


async def test_the_host_reaches_a_machine_which_sees_its_gateway(pool: NetPool) -> None:
    slot = await pool.take("veth", A)
    with udp(slot.netns_path, str(A)) as machine, udp(None, "0.0.0.0") as host:
        host.sendto(b"ping", machine.getsockname())
        data, sender = machine.recvfrom(100)
        assert (data, sender[0]) == (b"ping", str(GATEWAY))
        machine.sendto(b"pong", sender)
        assert host.recvfrom(100) == (b"pong", machine.getsockname())
    await pool.give_back(slot)


async def test_tcp_from_the_host_to_a_machine(pool: NetPool) -> None:
    slot = await pool.take("veth", A)
    with netns.entered(slot.netns_path):
        listener = socket.create_server((str(A), 0))
    with listener, socket.create_connection(listener.getsockname(), timeout=ARRIVAL_S) as client:
        connection, _ = listener.accept()
        with connection:
            client.sendall(b"x" * 100_000)
            client.shutdown(socket.SHUT_WR)
            connection.settimeout(ARRIVAL_S)
            received = 0
            while chunk := connection.recv(1 << 16):
                received += len(chunk)
    assert received == 100_000
    await pool.give_back(slot)


async def test_a_machine_goes_out_under_the_hosts_address_and_gets_answers(pool: NetPool, lab: Lab) -> None:
    slot = await pool.take("veth", A)
    with udp(slot.netns_path, str(A)) as machine, udp(lab.outside, OUTSIDE) as outside:
        machine.sendto(b"hello", outside.getsockname())
        data, sender = outside.recvfrom(100)
        assert (data, sender[0]) == (b"hello", HOST)
        outside.sendto(b"answer", sender)
        assert machine.recv(100) == b"answer"
    await pool.give_back(slot)


async def test_nobody_outside_calls_a_machine(pool: NetPool, lab: Lab) -> None:
    run_ip("-n", lab.outside.name, "route", "add", "10.61.0.0/16", "via", HOST)
    slot = await pool.take("veth", A)
    with (
        udp(slot.netns_path, str(A)) as machine,
        udp(lab.outside, OUTSIDE) as outside,
        udp(None, "0.0.0.0") as host,
    ):
        outside.sendto(b"from outside", machine.getsockname())
        host.sendto(b"from the host", machine.getsockname())
        assert machine.recv(100) == b"from the host"
    await pool.give_back(slot)


@pytest.mark.parametrize("target", [HOST, str(GATEWAY), "127.0.0.1"])
async def test_a_machine_cannot_call_services_of_the_host(pool: NetPool, target: str) -> None:
    slot = await pool.take("veth", A)
    with (
        udp(slot.netns_path, "0.0.0.0") as machine,
        udp(None, "0.0.0.0") as service,
        udp(None, "127.0.0.1") as local,
    ):
        machine.sendto(b"attack", (target, service.getsockname()[1]))
        local.sendto(b"proper", ("127.0.0.1", service.getsockname()[1]))
        assert service.recv(100) == b"proper"
    await pool.give_back(slot)


async def test_a_machine_may_ping_its_gateway(pool: NetPool) -> None:
    slot = await pool.take("veth", A)
    echo = struct.pack("!BBHHH", 8, 0, 0xF7FE, 0, 1)
    with netns.entered(slot.netns_path):
        machine = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with machine:
        machine.settimeout(ARRIVAL_S)
        machine.sendto(echo, (str(GATEWAY), 0))
        assert machine.recv(100)[20] == 0
    await pool.give_back(slot)


async def test_machines_do_not_reach_each_other(pool: NetPool) -> None:
    a, b = await pool.take("veth", A), await pool.take("veth", B)
    with udp(a.netns_path, str(A)) as one, udp(b.netns_path, str(B)) as other, udp(None, "0.0.0.0") as host:
        one.sendto(b"from a machine", other.getsockname())
        host.sendto(b"from the host", other.getsockname())
        assert other.recv(100) == b"from the host"
    await pool.give_back(a)
    await pool.give_back(b)


async def test_a_machine_cannot_send_under_an_address_that_is_not_its_own(pool: NetPool, lab: Lab) -> None:
    slot, neighbour = await pool.take("veth", A), await pool.take("veth", B)
    for forged in (str(B), "10.61.77.77", "203.0.113.77", "198.51.100.1"):
        run_ip("-n", slot.name, "addr", "add", f"{forged}/32", "dev", "eth0")
        with (
            udp(slot.netns_path, forged) as forger,
            udp(slot.netns_path, str(A)) as machine,
            udp(lab.outside, OUTSIDE) as outside,
        ):
            forger.sendto(b"forged", outside.getsockname())
            machine.sendto(b"genuine", outside.getsockname())
            assert outside.recv(100) == b"genuine"
    await pool.give_back(slot)
    await pool.give_back(neighbour)


async def test_the_clouds_metadata_service_is_out_of_reach(pool: NetPool, lab: Lab) -> None:
    slot = await pool.take("veth", A)
    with udp(slot.netns_path, str(A)) as machine, udp(lab.outside, "0.0.0.0") as outside:
        port = outside.getsockname()[1]
        machine.sendto(b"credentials please", (METADATA, port))
        machine.sendto(b"harmless", (OUTSIDE, port))
        assert outside.recv(100) == b"harmless"
    await pool.give_back(slot)


async def test_a_packet_to_a_stopped_machine_does_not_leave_the_host(pool: NetPool) -> None:
    with udp(None, "0.0.0.0") as host, pytest.raises(OSError, match=r"unreachable|No route"):
        host.sendto(b"secret", (str(A), 9))


def frame(source: IPv4Address, target: str, port: int, payload: bytes) -> bytes:
    """An Ethernet frame with a UDP packet, behind the virtio-net header a tap expects."""
    udp_part = struct.pack("!HHHH", 4242, port, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp_part), 1, 0, 64, 17, 0)
    header += source.packed + socket.inet_aton(target)
    total = sum(struct.unpack("!10H", header))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    ethernet = mac_bytes(GATEWAY_MAC) + mac_bytes(machine_mac(A)) + b"\x08\x00"
    return bytes(10) + ethernet + header + udp_part


def read_udp(fd: int) -> bytes:
    """The payload of the next UDP packet the guest gets."""
    while True:
        ready, _, _ = select.select([fd], [], [], ARRIVAL_S)
        assert ready, "nothing arrived at the tap"
        packet = os.read(fd, 2000)[10:]
        if packet[12:14] == b"\x08\x00" and packet[23] == 17:
            return packet[14 + 20 + 8 :]


async def test_a_guest_on_a_tap_talks_and_forged_frames_are_dropped(pool: NetPool, lab: Lab) -> None:
    slot = await pool.take("tap", A)
    guest = tap.open_tap(slot.netns_path)
    with netns.entered(slot.netns_path), NetlinkSocket.open() as inner:
        rtnl.wait_until_operational(inner, socket.if_nametoindex(tap.TAP_NAME))
    try:
        with udp(lab.outside, OUTSIDE) as outside, udp(None, "0.0.0.0") as host:
            port = outside.getsockname()[1]
            os.write(guest, frame(B, OUTSIDE, port, b"forged"))
            os.write(guest, frame(A, OUTSIDE, port, b"genuine"))
            data, sender = outside.recvfrom(100)
            assert (data, sender[0]) == (b"genuine", HOST)
            outside.sendto(b"answer", sender)
            assert read_udp(guest) == b"answer"
            # No ARP is answered on this side, so this needs the permanent neighbour.
            host.sendto(b"from the host", (str(A), 9))
            assert read_udp(guest) == b"from the host"
    finally:
        os.close(guest)
    await pool.give_back(slot)


async def test_connections_of_a_machine_are_forgotten_with_it(pool: NetPool, lab: Lab) -> None:
    slot = await pool.take("veth", A)
    with (
        udp(slot.netns_path, str(A)) as machine,
        udp(lab.outside, OUTSIDE) as outside,
        udp(None, HOST) as host,
    ):
        machine.sendto(b"out", outside.getsockname())
        outside.recv(100)
        host.sendto(b"in", machine.getsockname())
        machine.recv(100)
        assert conntrack.forget(A) == 2
        machine.sendto(b"out", outside.getsockname())
        outside.recv(100)
        await pool.give_back(slot)
    assert conntrack.forget(A) == 0


async def test_many_connections_are_found_with_the_kernels_filter(
    pool: NetPool, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "_UNFILTERED_MAX", -1)
    slots: list[NetSlot] = [await pool.take("veth", address) for address in (A, B)]
    with udp(lab.outside, OUTSIDE) as outside:
        for slot in slots:
            with udp(slot.netns_path, str(slot.ip)) as machine:
                machine.sendto(b"out", outside.getsockname())
                outside.recv(100)
    assert [conntrack.forget(A), conntrack.forget(A), conntrack.forget(B)] == [1, 0, 1]
    for slot in slots:
        await pool.give_back(slot)
