"""Addresses for Midges that tests start: no two of them at once have the same, whichever processes run tests.

One that is chosen automatically may be another's after a restart.
"""

from __future__ import annotations

import functools
import itertools
import random
import socket
from collections.abc import Iterator
from pathlib import Path

# Processes that run tests at the same time on one network; each has a share of 10.100.0.0 to 10.249.255.255 of its own.
PROCESSES_MAX = 50


def subnet_for(folder: Path) -> str:
    """A network of an instance's own; the same for as long as its folder exists."""
    remembered = folder / "test-subnet"
    if not remembered.exists():
        remembered.write_text(next(_for_instances()))
    return remembered.read_text()


def fresh_subnet() -> str:
    """A network for a driver without an instance around it."""
    return next(_for_drivers())


@functools.cache
def _for_instances() -> Iterator[str]:
    second = 100 + 2 * _share()[0]
    return _each([f"10.{second + at // 256}.{at % 256}.0/24" for at in range(512)])


@functools.cache
def _for_drivers() -> Iterator[str]:
    second = 200 + _share()[0]
    return _each([f"10.{second}.{third}.0/24" for third in range(256)])


def _each(networks: list[str]) -> Iterator[str]:
    """All in turn. Not from the first, which an instance may still have that was killed along with its tests."""
    start = random.randrange(len(networks))
    return itertools.cycle(networks[start:] + networks[:start])


@functools.cache
def _share() -> tuple[int, socket.socket]:
    """This process's, by a name that no other one can have in this network namespace until it has ended."""
    for number in range(PROCESSES_MAX):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0midge-test-subnets-{number}")
        except OSError:
            claim.close()
            continue
        return number, claim
    raise AssertionError(f"more than {PROCESSES_MAX} processes run tests")
