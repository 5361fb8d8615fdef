"""Whom machines ask for names where they name nobody: the nameservers of their host.

Only those that a machine can reach: an address of the host's loopback, as a local cache has, is another machine's
loopback there. Source: resolv.conf(5); the second file is what systemd-resolved (8) forwards to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from midge.errors import InvalidInput

Nameservers = Callable[[], tuple[str, ...]]

FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
NAMESERVERS_MAX = 3  # resolvers look at no more
FILE_BYTES_MAX = 64 * 1024

HOST, NONE = "host", "none"


def host_nameservers(files: Sequence[Path] = FILES) -> tuple[str, ...]:
    """Of the first file that names one. Read at each start, since a host may move to another network."""
    for path in files:
        with contextlib.suppress(OSError), path.open("rb") as file:
            found = parse(file.read(FILE_BYTES_MAX).decode("utf-8", "replace"))
            if found:
                return found
    return ()


def parse(text: str) -> tuple[str, ...]:
    """Addresses of a resolv.conf that other hosts can reach by IPv4, without repetitions."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = IPv4Address(words[1])
        except ValueError:
            continue  # machines have no way to IPv6 addresses
        if not (address.is_loopback or address.is_unspecified or address.is_link_local):
            found[str(address)] = None
    return tuple(found)[:NAMESERVERS_MAX]


def named(setting: str) -> Nameservers:
    """What a setting means: ``host``, ``none``, or IPv4 addresses with commas between them.

    Raises:
        InvalidInput.
    """
    if setting == HOST:
        return host_nameservers
    try:
        fixed = (
            () if setting == NONE else tuple(str(IPv4Address(word.strip())) for word in setting.split(","))
        )
    except ValueError as error:
        raise InvalidInput(
            f"nameservers: {error}", hint='"host", "none", or addresses such as "10.0.0.53,10.0.0.54"'
        ) from error
    if len(fixed) > NAMESERVERS_MAX:
        raise InvalidInput(f"nameservers: resolvers look at {NAMESERVERS_MAX} and no more")
    return lambda: fixed


def nobody() -> tuple[str, ...]:
    """No nameservers."""
    return ()
