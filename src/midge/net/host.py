"""What an instance changes on its host once, at opening: forwarding, and the claim on its address pool.

The claim is a route of type unreachable for the whole pool. It keeps packets to stopped machines from leaving by the
host's default route, and tells other instances whose pool it is: its metric is `instance_number`.
"""

from __future__ import annotations

import errno
import os
from ipaddress import IPv4Network
from pathlib import Path

from midge.errors import Conflict, NotSupported
from midge.net import rtnl
from midge.net.naming import instance_number, interface_prefix
from midge.net.netlink import NetlinkError, NetlinkSocket
from midge.net.tap import TUN_DEVICE

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
# Lives exactly as long as the setting it is about: until the next boot.
_STATE_DIR = Path("/run/midge")
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21


def require(*, tap: bool) -> None:
    """Raises: NotSupported, if this process or kernel cannot make networks for machines."""
    capabilities = _effective_capabilities()
    if not all(capabilities >> bit & 1 for bit in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN)):
        raise NotSupported(
            "making networks for machines needs the capabilities NET_ADMIN and SYS_ADMIN",
            hint="run midge as root, or use the mock driver",
        )
    if tap and not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        raise NotSupported(
            f"{TUN_DEVICE} is missing or not accessible, and virtual machines need it",
            hint="modprobe tun; inside a container, pass the device in",
        )


def _effective_capabilities() -> int:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def enable_forwarding() -> bool:
    """Turns IPv4 forwarding on; returns whether the host was a router before Midge, in this boot."""
    mark = _forwarding_mark()
    if _IP_FORWARD.read_text().strip() != "0":
        return not mark.exists()
    mark.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    mark.touch()
    _IP_FORWARD.write_text("1")
    return False


def restore_forwarding() -> None:
    """Turns IPv4 forwarding off again, if Midge turned it on. For the last instance to leave."""
    mark = _forwarding_mark()
    if mark.exists():
        _IP_FORWARD.write_text("0")
        mark.unlink(missing_ok=True)


def _forwarding_mark() -> Path:
    # The setting belongs to a network namespace, /run does not.
    return _STATE_DIR / f"forwarding-was-off-{Path('/proc/thread-self/ns/net').stat().st_ino}"


def claim_pool(tag: str, pool: IPv4Network) -> None:
    """Puts the claim on an address pool, anew after a restart.

    Raises: Conflict if a route of somebody else overlaps.
    """
    with NetlinkSocket.open() as host:
        metric = instance_number(tag)
        interfaces = {link.index: link.name for link in rtnl.links(host)}
        for route in rtnl.routes(host):
            if route.destination.prefixlen == 0 or not route.destination.overlaps(pool):
                continue
            interface = interfaces.get(route.interface, "")
            claimed = route.protocol == rtnl.ROUTE_PROTOCOL and route.metric == metric
            if claimed or interface.startswith(interface_prefix(tag)):
                continue
            raise Conflict(
                f"address pool {pool} overlaps the host's route {route.destination}"
                + (f" on {interface}" if interface else ""),
                hint="choose another private network as this host's address pool",
            )
        try:
            host.request(rtnl.add_unreachable(pool, metric))
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise


def release_pool(tag: str, pool: IPv4Network) -> None:
    """Takes the claim back. Idempotent."""
    with NetlinkSocket.open() as host:
        for error in host.try_all([rtnl.delete_unreachable(pool, instance_number(tag))]):
            if error is not None and error.errno != errno.ESRCH:
                raise error


def other_claims(tag: str) -> bool:
    """Whether another instance has an address pool in this namespace."""
    own = instance_number(tag)
    with NetlinkSocket.open() as host:
        return any(
            route.protocol == rtnl.ROUTE_PROTOCOL and route.metric >> 24 == ord("m") and route.metric != own
            for route in rtnl.routes(host)
        )
