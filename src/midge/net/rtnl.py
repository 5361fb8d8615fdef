"""rtnetlink: the messages for links, addresses, routes, neighbours and traffic redirection.

Functions without a socket are pure and render a message, to be sent by `midge.net.netlink`; the rest ask and read.
Structures and numbers are those of linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h and pkt_sched.h.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from midge.net.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    NetlinkSocket,
    attribute,
    nested,
    parse_attributes,
    text,
    u32,
)

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR = 20
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH = 28, 29
_NEWQDISC, _NEWTFILTER = 36, 44

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_TC = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info

_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_AF_SPEC = 1, 3, 4, 18, 26
_IFLA_OPERSTATE, _OPERSTATE_UP = 16, 6
_IFLA_GROUP = 27
_IFLA_NET_NS_FD, _IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 28, 31, 32
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET_CONF, _IFLA_INET6_ADDR_GEN_MODE = 1, 8
_ADDR_GEN_NONE = 1

_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 5, 6, 15
_NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 1, 2, 0x80

SCOPE_GLOBAL, SCOPE_LINK = 0, 253
_TABLE_MAIN, _TABLE_LOCAL = 254, 255
_ROUTE_UNICAST, _ROUTE_UNREACHABLE = 1, 7
_RTNH_F_ONLINK = 4
# "Who made this route" (rt_protos); free numbers are above 4 and not among those daemons registered.
ROUTE_PROTOCOL = 109

# Per-interface IPv4 settings as numbered in linux/ip.h: what /proc/sys/net/ipv4/conf/<if>/ calls by name.
ACCEPT_REDIRECTS, SEND_REDIRECTS, RP_FILTER, ARP_IGNORE = 4, 6, 8, 19

_INGRESS_HANDLE, _INGRESS_PARENT = 0xFFFF_0000, 0xFFFF_FFF1
_ETH_P_ALL_BE = 0x0300
_TCA_KIND, _TCA_OPTIONS = 1, 2
_U32_SEL, _U32_ACT, _U32_TERMINAL = 5, 7, 1
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_TC_ACT_STOLEN, _EGRESS_REDIRECT = 4, 1


# Seconds for a new wire to come up, which takes milliseconds, and between looks.
_OPERATIONAL_S, _OPERATIONAL_POLL_S = 5.0, 0.001


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel lists it."""

    index: int
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 route of any table but the local one."""

    destination: IPv4Network
    interface: int
    metric: int
    protocol: int


def mac_bytes(mac: str) -> bytes:
    """``02:6d:…`` as six bytes. Raises: ValueError."""
    data = bytes.fromhex(mac.replace(":", ""))
    if len(data) != 6:
        raise ValueError(f"not a MAC address: {mac!r}")
    return data


def add_veth(
    name: str, peer: str, *, peer_netns_fd: int, mtu: int, mac: str, peer_mac: str | None = None
) -> Message:
    """A veth pair, both ends down: `name` here, `peer` in another namespace, one queue each.

    One queue, because the kernel's default is one for each possible CPU and costs memory for each machine.
    """
    queues = u32(_IFLA_NUM_TX_QUEUES, 1) + u32(_IFLA_NUM_RX_QUEUES, 1) + u32(_IFLA_MTU, mtu)
    far = _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, peer) + queues
    far += u32(_IFLA_NET_NS_FD, peer_netns_fd)
    if peer_mac:
        far += attribute(_IFLA_ADDRESS, mac_bytes(peer_mac))
    data = nested(_INFO_DATA, attribute(_VETH_INFO_PEER, far))
    near = text(_IFLA_IFNAME, name) + queues + attribute(_IFLA_ADDRESS, mac_bytes(mac))
    near += nested(_IFLA_LINKINFO, text(_INFO_KIND, "veth"), data)
    return Message(_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + near)


def configure_ipv4(index: int, settings: dict[int, int]) -> Message:
    """Sets per-interface IPv4 settings, by their numbers above."""
    values = [u32(setting, value) for setting, value in settings.items()]
    return _set_family(index, nested(AF_INET, nested(_IFLA_INET_CONF, *values)))


def silence_ipv6(index: int) -> Message:
    """No IPv6 link-local address when the link comes up. EAFNOSUPPORT where the kernel has IPv6 off."""
    mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))
    return _set_family(index, nested(AF_INET6, mode))


def _set_family(index: int, family: bytes) -> Message:
    return Message(_SETLINK, 0, _IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + nested(_IFLA_AF_SPEC, family))


def set_up(index: int) -> Message:
    return Message(_SETLINK, 0, _IFINFO.pack(AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP))


def set_group(name: str, group: int) -> Message:
    """Puts a link into a group, by which `delete_group` finds it."""
    body = _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + u32(_IFLA_GROUP, group)
    return Message(_SETLINK, 0, body)


def delete_group(group: int) -> Message:
    """Removes every link of a group with one grace period for all, not one each. ENODEV if it is empty."""
    return Message(_DELLINK, 0, _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + u32(_IFLA_GROUP, group))


def set_mac(index: int, mac: str) -> Message:
    body = _IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + attribute(_IFLA_ADDRESS, mac_bytes(mac))
    return Message(_SETLINK, 0, body)


def delete_link(name: str) -> Message:
    """Removes a link by name; of a veth, both ends. ENODEV if there is none."""
    return Message(_DELLINK, 0, _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, name))


def add_address(index: int, address: IPv4Address, scope: int = SCOPE_GLOBAL) -> Message:
    """Puts a /32 on an interface."""
    body = _IFADDR.pack(AF_INET, 32, 0, scope, index)
    body += attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    return Message(_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def add_host_route(index: int, address: IPv4Address) -> Message:
    """A /32 straight out of an interface. EEXIST if the address has a route already."""
    return Message(_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, _host_route(index, address))


def delete_host_route(index: int, address: IPv4Address) -> Message:
    """ESRCH if there is none through this interface."""
    return Message(_DELROUTE, 0, _host_route(index, address))


def _host_route(index: int, address: IPv4Address) -> bytes:
    fixed = _ROUTE.pack(AF_INET, 32, 0, 0, _TABLE_MAIN, ROUTE_PROTOCOL, SCOPE_LINK, _ROUTE_UNICAST, 0)
    return fixed + attribute(_RTA_DST, address.packed) + u32(_RTA_OIF, index)


def add_default_route(index: int, gateway: IPv4Address) -> Message:
    """A default route by a gateway taken to be on the link, whatever addresses the interface has."""
    fixed = _ROUTE.pack(
        AF_INET, 0, 0, 0, _TABLE_MAIN, ROUTE_PROTOCOL, SCOPE_GLOBAL, _ROUTE_UNICAST, _RTNH_F_ONLINK
    )
    body = fixed + attribute(_RTA_GATEWAY, gateway.packed) + u32(_RTA_OIF, index)
    return Message(_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def add_unreachable(network: IPv4Network, metric: int) -> Message:
    """Answers for a network that no other route covers: unreachable, instead of out by the default route."""
    return Message(_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, _unreachable(network, metric))


def delete_unreachable(network: IPv4Network, metric: int) -> Message:
    return Message(_DELROUTE, 0, _unreachable(network, metric))


def _unreachable(network: IPv4Network, metric: int) -> bytes:
    fixed = _ROUTE.pack(
        AF_INET, network.prefixlen, 0, 0, _TABLE_MAIN, ROUTE_PROTOCOL, SCOPE_GLOBAL, _ROUTE_UNREACHABLE, 0
    )
    return fixed + attribute(_RTA_DST, network.network_address.packed) + u32(_RTA_PRIORITY, metric)


def add_neighbour(index: int, address: IPv4Address, mac: str) -> Message:
    """A permanent neighbour: no ARP before the first packet, and no forged answer afterwards."""
    fixed = _NEIGHBOUR.pack(AF_INET, index, _NUD_PERMANENT, 0, 0)
    body = fixed + attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac_bytes(mac))
    return Message(_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_neighbour(index: int, address: IPv4Address) -> Message:
    fixed = _NEIGHBOUR.pack(AF_INET, index, 0, 0, 0)
    return Message(_DELNEIGH, 0, fixed + attribute(_NDA_DST, address.packed))


def redirect(source: int, target: int) -> tuple[Message, Message]:
    """Two messages after which every frame that arrives at `source` leaves by `target`.

    An ingress qdisc and one u32 filter that matches anything, with the action mirred. No bridge: nothing learns,
    floods or answers for a MAC address, so whatever address the guest takes just works.
    """
    qdisc = _TC.pack(AF_UNSPEC, source, _INGRESS_HANDLE, _INGRESS_PARENT, 0) + text(_TCA_KIND, "ingress")
    key = struct.pack("=IIii", 0, 0, 0, 0)
    selector = struct.pack("=BBBxHHhhI", _U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + key
    mirred = struct.pack("=IIiiiiI", 0, 0, _TC_ACT_STOLEN, 0, 0, _EGRESS_REDIRECT, target)
    action = nested(1, text(_ACT_KIND, "mirred"), nested(_ACT_OPTIONS, attribute(_MIRRED_PARMS, mirred)))
    priority_and_protocol = 1 << 16 | _ETH_P_ALL_BE
    rule = _TC.pack(AF_UNSPEC, source, 0, _INGRESS_HANDLE, priority_and_protocol) + text(_TCA_KIND, "u32")
    rule += nested(_TCA_OPTIONS, attribute(_U32_SEL, selector), nested(_U32_ACT, action))
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Message(_NEWQDISC, flags, qdisc), Message(_NEWTFILTER, flags, rule)


def link_index(sock: NetlinkSocket, name: str) -> int:
    """The index of an interface in the socket's namespace. Raises: NetlinkError."""
    request = Message(_GETLINK, 0, _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, name))
    payload = sock.get(request)
    _, _, index, _, _ = _IFINFO.unpack_from(payload)
    return int(index)


def wait_until_operational(sock: NetlinkSocket, index: int) -> None:
    """Blocks until an interface sends what it is given. Raises: TimeoutError, NetlinkError.

    One that is up and has a carrier still drops everything until the kernel's link watcher has given it a queue, and
    that is a work queue item which waits for the big network lock. From Linux 6.8 asking does its work on the spot.
    """
    deadline = time.monotonic() + _OPERATIONAL_S
    while True:
        payload = sock.get(Message(_GETLINK, 0, _IFINFO.pack(AF_UNSPEC, 0, index, 0, 0)))
        state = parse_attributes(payload[_IFINFO.size :]).get(_IFLA_OPERSTATE)
        if state == bytes([_OPERSTATE_UP]):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"network interface {index} did not come up within {_OPERATIONAL_S} s")
        time.sleep(_OPERATIONAL_POLL_S)


def links(sock: NetlinkSocket) -> Iterator[Link]:
    """All interfaces of the socket's namespace."""
    for _, payload in sock.dump(Message(_GETLINK, 0, _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0))):
        _, _, index, _, _ = _IFINFO.unpack_from(payload)
        attributes = parse_attributes(payload[_IFINFO.size :])
        info = parse_attributes(attributes.get(_IFLA_LINKINFO, b""))
        yield Link(index, _text(attributes.get(_IFLA_IFNAME)), _text(info.get(_INFO_KIND)))


def routes(sock: NetlinkSocket) -> Iterator[Route]:
    """All IPv4 routes of the socket's namespace, of every table except the local one."""
    for _, payload in sock.dump(Message(_GETROUTE, 0, _ROUTE.pack(AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))):
        _, length, _, _, table, protocol, _, _, _ = _ROUTE.unpack_from(payload)
        attributes = parse_attributes(payload[_ROUTE.size :])
        if _number(attributes.get(_RTA_TABLE), table) == _TABLE_LOCAL:
            continue
        destination = IPv4Network((attributes.get(_RTA_DST, bytes(4)), length))
        interface = _number(attributes.get(_RTA_OIF), 0)
        yield Route(destination, interface, _number(attributes.get(_RTA_PRIORITY), 0), protocol)


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def _number(value: bytes | None, default: int) -> int:
    return int.from_bytes(value, sys.byteorder) if value else default
