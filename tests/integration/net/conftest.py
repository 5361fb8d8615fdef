"""A host of its own for each test: a network namespace with an uplink to an "outside" that has no route back."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from midge.net import netns, rtnl
from midge.net.config import NetConfig
from midge.net.netlink import NetlinkSocket
from midge.sys.leaks import diff, snapshot
from midge.sys.syscalls import CLONE_NEWNET, LINUX
from tests.deadlines import PATIENCE_S

POOL = IPv4Network("10.61.0.0/16")
HOST = "203.0.113.1"
OUTSIDE = "203.0.113.2"
METADATA = "169.254.169.254"
# Seconds until something that should have arrived counts as lost. Nothing waits for what must not arrive.
ARRIVAL_S = PATIENCE_S

OUTSIDE_SETUP = f"""
link set lo up
link set out0 up
addr add {OUTSIDE}/24 dev out0
addr add {METADATA}/32 dev lo
"""
HOST_SETUP = f"""
link set lo up
link set up0 up
addr add {HOST}/24 dev up0
route add default via {OUTSIDE}
route add {METADATA} via {OUTSIDE}
"""


@dataclass(frozen=True)
class Lab:
    """The calling thread is on the lab's host; `tag` is unique."""

    tag: str
    outside: Path

    def config(self, **changes: object) -> NetConfig:
        settings: dict[str, object] = {"tag": self.tag, "pool": POOL, "free_low": {}, "free_high": {"tap": 2}}
        return NetConfig(**{**settings, **changes})  # type: ignore[arg-type]  # keyword arguments by name


def run_ip(*arguments: str, script: str = "") -> None:
    subprocess.run(
        ["ip", *arguments], input=script, text=True, check=True, capture_output=True, timeout=PATIENCE_S
    )


@contextmanager
def udp(netns_path: Path | None, address: str, port: int = 0) -> Iterator[socket.socket]:
    """A bound UDP socket in a namespace, where it stays; None is where the thread is."""
    if netns_path is None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    else:
        with netns.entered(netns_path):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(ARRIVAL_S)
        sock.bind((address, port))
        yield sock


@pytest.fixture
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for program in ("ip", "nft"):
        if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            pytest.skip(f"needs the program {program}")
    tag = secrets.token_hex(3)
    outside = f"out-{tag}"
    before = snapshot([tag])
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    LINUX.unshare(CLONE_NEWNET)
    try:
        run_ip("netns", "add", outside)
        run_ip("link", "add", "up0", "type", "veth", "peer", "name", "out0", "netns", outside)
        run_ip("-n", outside, "-batch", "-", script=OUTSIDE_SETUP)
        run_ip("-batch", "-", script=HOST_SETUP)
        # A new namespace begins with the host's settings, and a Midge that runs there has turned it on.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        with NetlinkSocket.open() as host:
            rtnl.wait_until_operational(host, socket.if_nametoindex("up0"))
        with netns.entered(netns.path_of(outside)), NetlinkSocket.open() as far:
            rtnl.wait_until_operational(far, socket.if_nametoindex("out0"))
        here = snapshot()
        yield Lab(tag, netns.path_of(outside))
        here_after = snapshot()
        leaks = [leak for leak in diff(here, here_after) if leak.startswith(("interface", "route", "nft"))]
        assert leaks == []
    finally:
        subprocess.run(["ip", "netns", "del", outside], check=False, capture_output=True)
        LINUX.setns(home, CLONE_NEWNET)
        os.close(home)
        left = diff(before, snapshot([tag]))
        for name in netns.names():
            if tag in name:
                netns.remove(name)
    assert left == []
