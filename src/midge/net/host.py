"""What an instance changes on its host once, at opening: forwarding, and the claim on its address pool.

Both belong to all instances of the host together, so entering and leaving are done under a lock: two that open at once
do not claim the same pool, and the last to leave does not turn forwarding off under one that has just come.

The claim is a route of type unreachable for the whole pool. It keeps packets to stopped machines from leaving by the
host's default route, and tells other instances whose pool it is: its metric is `instance_number`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import structlog

from midge.errors import Conflict, NotSupported, Unavailable
from midge.net import rtnl
from midge.net.naming import instance_number, interface_prefix
from midge.net.netlink import NetlinkError, NetlinkSocket
from midge.net.tap import TUN_DEVICE

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
# Lives exactly as long as the setting it is about: until the next boot.
_STATE_DIR = Path("/run/midge")
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21
LOCK_TIMEOUT_S = 10.0  # another instance holds the lock for a few milliseconds
_LOCK_LOOK_S = 0.005

_log = structlog.get_logger("midge.net")


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


def enter(tag: str, pool: IPv4Network) -> bool:
    """Claims the address pool and turns IPv4 forwarding on; returns whether the host was a router before Midge.

    Raises: Conflict if a route of somebody else overlaps the pool; Unavailable.
    """
    with _lock():
        claim_pool(tag, pool)
        return _enable_forwarding()


def leave(tag: str, pool: IPv4Network) -> None:
    """Takes both back, forwarding if this is the last instance. Idempotent. Raises: Unavailable; OSError."""
    with _lock():
        release_pool(tag, pool)
        if not other_claims(tag):
            _restore_forwarding()


@contextmanager
def _lock() -> Iterator[None]:
    _STATE_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory = os.open(_STATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    try:
        while not _locked(directory):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"another midge has held the lock on {_STATE_DIR} for {LOCK_TIMEOUT_S:g} s",
                    hint="is one stopped in the middle of its start or end? fuser says which",
                )
            time.sleep(_LOCK_LOOK_S)
        yield
    finally:
        os.close(directory)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _enable_forwarding() -> bool:
    mark = _forwarding_mark()
    if _IP_FORWARD.read_text().strip() != "0":
        return not mark.exists()
    mark.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    mark.touch()
    _IP_FORWARD.write_text("1")
    _log.info("ip forwarding was off on this host; on now, for machines only", sysctl=str(_IP_FORWARD))
    return False


def _restore_forwarding() -> None:
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
