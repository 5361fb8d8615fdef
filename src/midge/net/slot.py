"""One slot: a namespace with its wires, ready for a machine; and how to make, fill, empty and destroy it.

::

      host namespace                      │ namespace mg-<tag>-<n>
                                          │
      route 10.61.0.7/32 ─► mg<tag><n> ◄──┼──► eth0                     kind veth: the container's own interface
                            169.254.0.1   │
                                          │
      route 10.61.0.8/32 ─► mg<tag><n> ◄──┼──► eth0 ◄═redirect═► tap0   kind tap: the VMM opens tap0
                            169.254.0.1   │

Making a slot waits several times for the kernel's big network lock and its grace periods; taking one is two to four
messages. Everything in this module blocks: `midge.net.pool` runs it on threads.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from midge.errors import Conflict, NotFound
from midge.net import netns, rtnl
from midge.net.naming import (
    GATEWAY,
    GATEWAY_MAC,
    host_interface,
    instance_number,
    interface_prefix,
    netns_name,
    slot_number,
)
from midge.net.netlink import Message, NetlinkError, NetlinkSocket
from midge.net.tap import TAP_NAME, create_tap

SlotKind = Literal["tap", "veth"]
INNER_NAME = "eth0"
# The kernel gives every namespace's loopback this index.
_LOOPBACK_INDEX = 1
_IPV6_SETTINGS = Path("/proc/sys/net/ipv6")

# Nothing a machine sends may change the host's routing, and ARP answers for the gateway alone.
_HOST_END = {rtnl.RP_FILTER: 1, rtnl.ARP_IGNORE: 1, rtnl.ACCEPT_REDIRECTS: 0, rtnl.SEND_REDIRECTS: 0}


@dataclass(frozen=True, slots=True)
class NetSlot:
    """A network namespace and the two ends of its wire.

    Attributes:
        name: of the namespace; `adopt` and `sweep` know a slot by it.
        kind: whether a VMM's tap or a container's veth is inside.
        number: the slot's number within this instance.
        host_ifname: the veth end in the host's namespace.
        host_index: and its interface index.
        inner_index: index of `eth0` inside.
        mtu: bytes, of every interface of the slot and to be told to the guest.
        ip: the machine's address (a /32), once taken.
        mac: the machine's hardware address, once taken.
    """

    name: str
    kind: SlotKind
    number: int
    host_ifname: str
    host_index: int
    inner_index: int
    mtu: int
    ip: IPv4Address | None = None
    mac: str | None = None

    @property
    def netns_path(self) -> Path:
        return netns.path_of(self.name)

    @property
    def guest_ifname(self) -> str:
        """The interface the machine's owner attaches to: `tap0`, or the container's `eth0`."""
        return TAP_NAME if self.kind == "tap" else INNER_NAME

    @property
    def gateway(self) -> IPv4Address:
        """The machine's default route, on the link although outside its /32."""
        return GATEWAY

    @property
    def gateway_mac(self) -> str:
        return GATEWAY_MAC


@dataclass(frozen=True, slots=True)
class FreeSlot:
    """A slot that waits for a machine.

    Attributes:
        inner: a socket into the namespace, for a veth slot; a tap slot has nothing to be set inside.
    """

    slot: NetSlot
    inner: NetlinkSocket | None

    def close(self) -> None:
        if self.inner is not None:
            self.inner.close()


@dataclass(frozen=True, slots=True)
class SlotMaker:
    """Makes and destroys slots of one instance.

    Attributes:
        tag: of the instance.
        mtu: bytes.
        tap_uid: who may open the taps without privileges; None for root alone.
    """

    tag: str
    mtu: int = 1500
    tap_uid: int | None = None

    def make(self, kind: SlotKind, number: int) -> FreeSlot:
        """A new slot. Leaves nothing behind when it fails. Raises: OSError."""
        name, host_ifname = netns_name(self.tag, number), host_interface(self.tag, number)
        with NetlinkSocket.open() as host, netns.created(name):
            host_index = self._connect(host, name, host_ifname)
            inner = NetlinkSocket.open()
            try:
                inner_index = self._furnish(inner, kind)
                rtnl.wait_until_operational(host, host_index)
                rtnl.wait_until_operational(inner, inner_index)
            except BaseException:
                inner.close()
                host.try_all([rtnl.delete_link(host_ifname)])
                raise
        slot = NetSlot(name, kind, number, host_ifname, host_index, inner_index, self.mtu)
        if kind == "tap":
            inner.close()
            return FreeSlot(slot, None)
        return FreeSlot(slot, inner)

    def _connect(self, host: NetlinkSocket, name: str, host_ifname: str) -> int:
        """Lays the wire between the host and the namespace of this name; returns the index of the host's end."""
        fd = os.open(netns.path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            host.request(
                rtnl.add_veth(host_ifname, INNER_NAME, peer_netns_fd=fd, mtu=self.mtu, mac=GATEWAY_MAC)
            )
        finally:
            os.close(fd)
        index = rtnl.link_index(host, host_ifname)
        host.request(
            rtnl.configure_ipv4(index, _HOST_END),
            *_quiet(index),
            rtnl.set_up(index),
            rtnl.add_address(index, GATEWAY, rtnl.SCOPE_LINK),
        )
        return index

    def _furnish(self, inner: NetlinkSocket, kind: SlotKind) -> int:
        """Sets up the inside, in the calling thread's namespace; returns the index of its `eth0`."""
        eth0 = socket.if_nametoindex(INNER_NAME)
        setup = [rtnl.set_up(_LOOPBACK_INDEX), *_quiet(eth0), rtnl.set_up(eth0)]
        if kind == "tap":
            create_tap(self.tap_uid)
            tap = socket.if_nametoindex(TAP_NAME)
            setup += [*_quiet(tap), rtnl.set_up(tap)]
            setup += [*rtnl.redirect(tap, eth0), *rtnl.redirect(eth0, tap)]
        else:
            setup.append(rtnl.add_default_route(eth0, GATEWAY))
        inner.request(*setup)
        return eth0

    def destroy(self, names: Collection[str]) -> None:
        """Removes slots by name, whatever is left of them. Idempotent. Raises: NotFound for a foreign name; OSError.

        All at once: the kernel's grace periods are waited for once for all of them, with its network lock held.
        """
        messages = []
        for name in names:
            number = slot_number(self.tag, name)
            if number is None:
                raise NotFound(f"{name} is no network slot of instance {self.tag}")
            messages.append(rtnl.set_group(host_interface(self.tag, number), instance_number(self.tag)))
        with NetlinkSocket.open() as host:
            messages.append(rtnl.delete_group(instance_number(self.tag)))
            for error in host.try_all(messages):
                if error is not None and error.errno != errno.ENODEV:
                    raise error
        for name in names:
            netns.remove(name)

    def leftovers(self) -> set[str]:
        """Names of all slots of this instance that exist in any part on the host."""
        found = {name for name in netns.names() if slot_number(self.tag, name) is not None}
        prefix = interface_prefix(self.tag)
        with NetlinkSocket.open() as host:
            for link in rtnl.links(host):
                digits = link.name.removeprefix(prefix)
                if digits != link.name and digits.isdecimal():
                    found.add(netns_name(self.tag, int(digits)))
        return found

    def inspect(self, name: str) -> NetSlot:
        """A slot that exists, as the kernel shows it, with its machine's address if it has one. Raises: NotFound."""
        number = slot_number(self.tag, name)
        if number is None or not netns.path_of(name).exists():
            raise NotFound(f"network slot {name} does not exist")
        host_ifname = host_interface(self.tag, number)
        try:
            host_index = socket.if_nametoindex(host_ifname)
            with netns.entered(netns.path_of(name)):
                inner_index = socket.if_nametoindex(INNER_NAME)
                interfaces = {interface for _, interface in socket.if_nameindex()}
        except OSError as error:
            raise NotFound(f"network slot {name} is incomplete", hint="sweep removes it") from error
        kind: SlotKind = "tap" if TAP_NAME in interfaces else "veth"
        slot = NetSlot(name, kind, number, host_ifname, host_index, inner_index, self.mtu)
        with NetlinkSocket.open() as host:
            for route in rtnl.routes(host):
                if route.interface == host_index and route.destination.prefixlen == 32:
                    return replace(slot, ip=route.destination.network_address)
        return slot


def fill(host: NetlinkSocket, free: FreeSlot, ip: IPv4Address, mac: str) -> NetSlot:
    """Gives a free slot to the machine with this address. Raises: Conflict if the address has a route; OSError."""
    slot = free.slot
    if free.inner is not None:
        # Changing the MAC forgets neighbours, so the gateway's entry comes last.
        free.inner.request(
            rtnl.set_mac(slot.inner_index, mac),
            rtnl.add_address(slot.inner_index, ip),
            rtnl.add_neighbour(slot.inner_index, GATEWAY, GATEWAY_MAC),
        )
    try:
        host.request(rtnl.add_host_route(slot.host_index, ip), rtnl.add_neighbour(slot.host_index, ip, mac))
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
        raise Conflict(
            f"address {ip} is routed already", hint=f"see who has it: ip route get {ip}", ip=str(ip)
        ) from error
    return replace(slot, ip=ip, mac=mac)


def empty(host: NetlinkSocket, slot: NetSlot) -> None:
    """Takes the machine's address off the host: no packet to or from it passes. Idempotent. Raises: OSError."""
    if slot.ip is None:
        return
    gone = (errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EINVAL)
    route = rtnl.delete_host_route(slot.host_index, slot.ip)
    neighbour = rtnl.delete_neighbour(slot.host_index, slot.ip)
    for error in host.try_all([route, neighbour]):
        if error is not None and error.errno not in gone:
            raise error


def _quiet(index: int) -> list[Message]:
    """Whatever keeps IPv6 from speaking up by itself; machines have no IPv6 yet."""
    return [rtnl.silence_ipv6(index)] if _IPV6_SETTINGS.exists() else []
