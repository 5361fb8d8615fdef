"""A picture of everything Midge makes on a host, and what is in a later picture that was not in an earlier one.

For tests such as "200 starts and stops leave nothing behind"::

    before = snapshot(markers=[tag, str(data_dir)], directories=[data_dir])
    ...
    assert diff(before, snapshot(markers=[tag, str(data_dir)], directories=[data_dir])) == []

Several people and tests share a host, so `markers` narrows the picture to what carries one of them in its name; without
markers everything on the host counts.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

_PROC = Path("/proc")
_NETNS_DIR = Path("/run/netns")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_NFT = "/usr/sbin/nft"
# Seconds for listing the host's nftables.
_NFT_TIMEOUT_S = 60
# Characters of a command line shown for a leaked process.
_COMMAND_CHARS_MAX = 160
# Clones of a process end asynchronously in these states: nothing is left of them but an exit code to collect.
_DEAD_STATES = ("X", "x")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostState:
    """What exists, each thing as the text `diff` shows; the names of the fields are what they are called there."""

    process: frozenset[str]
    netns: frozenset[str]
    mount: frozenset[str]
    interface: frozenset[str]
    cgroup: frozenset[str]
    nftables: frozenset[str]
    route: frozenset[str]
    file: frozenset[str]
    descriptor: frozenset[str]


def snapshot(markers: Sequence[str] = (), directories: Sequence[Path] = ()) -> HostState:
    """The host as it is now. Blocks for some milliseconds.

    Args:
        markers: keep only what has one of these in its name, command line or environment; empty keeps all.
        directories: whose files and sockets are listed, recursively, whatever their names.
    """
    return HostState(
        process=_keep(_processes(markers), ()),
        netns=_keep(_netns(), markers),
        mount=_keep(_mounts(), markers),
        interface=_keep((name for _, name in socket.if_nameindex()), markers),
        cgroup=_keep(_cgroups(), markers),
        nftables=_keep(_nft_tables(), markers),
        route=_keep(_routes(), markers),
        file=_keep((path for root in directories for path in _files(root)), ()),
        descriptor=_keep(_descriptors(), ()),
    )


def diff(before: HostState, after: HostState) -> list[str]:
    """What is new, as ``kind: thing``, sorted; empty when nothing was left behind."""
    found: list[str] = []
    for kind in fields(HostState):
        new = getattr(after, kind.name) - getattr(before, kind.name)
        found += sorted(f"{kind.name}: {thing}" for thing in new)
    return found


def _keep(things: Iterable[str], markers: Sequence[str]) -> frozenset[str]:
    return frozenset(thing for thing in things if not markers or any(marker in thing for marker in markers))


def _processes(markers: Sequence[str]) -> Iterator[str]:
    """Processes but this one, its ancestors and kernel threads; with markers those that carry one."""
    own = _ancestors(os.getpid())
    wanted = [os.fsencode(marker) for marker in markers]
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal() or int(entry.name) in own:
            continue
        with suppress(OSError):
            state, name = _state(entry)
            command = (entry / "cmdline").read_bytes()
            if state in _DEAD_STATES or (not command and state != "Z"):
                continue
            if wanted:
                surroundings = command + b"\0" + (entry / "environ").read_bytes()
                if not any(marker in surroundings for marker in wanted):
                    continue
            text = command.replace(b"\0", b" ").decode(errors="replace").strip() or f"[{name}]"
            yield f"{entry.name} {state} {text[:_COMMAND_CHARS_MAX]}"


def _state(entry: Path) -> tuple[str, str]:
    """One letter of /proc/<pid>/stat, and the command's name, which may contain spaces and parentheses."""
    head, _, tail = (entry / "stat").read_text(errors="replace").rpartition(")")
    return tail.split()[0], head.partition("(")[2]


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            _, _, tail = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
        except OSError:
            break
        pid = int(tail.split()[1])
    return found


def _netns() -> Iterator[str]:
    with suppress(FileNotFoundError):
        yield from (path.name for path in _NETNS_DIR.iterdir())


def _mounts() -> Iterator[str]:
    """Mounts of this mount namespace: a name bound twice counts once."""
    for line in (_PROC / "self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        yield f"{head.split()[4]} ({tail.split()[0]})"


def _files(root: Path) -> Iterator[str]:
    """All below a directory. What goes while it is looked at is passed over: `Path.rglob` would raise."""
    for directory, folders, files in os.walk(root):
        yield from (f"{directory}/{name}" for name in (*folders, *files))


def _cgroups() -> Iterator[str]:
    for directory, _, _ in os.walk(_CGROUP_ROOT):
        yield directory


def _nft_tables() -> Iterator[str]:
    if Path(_NFT).exists():
        listed = subprocess.run(
            [_NFT, "list", "tables"], capture_output=True, text=True, timeout=_NFT_TIMEOUT_S, check=False
        )
        yield from listed.stdout.splitlines()


def _routes() -> Iterator[str]:
    """IPv4 routes by destination, gateway, interface and metric, in the kernel's own hexadecimal."""
    with suppress(FileNotFoundError):
        for line in (_PROC / "self/net/route").read_text().splitlines()[1:]:
            interface, destination, gateway, _, _, _, metric, mask = line.split()[:8]
            yield f"{interface} {destination}/{mask} via {gateway} metric {metric}"


def _descriptors() -> Iterator[str]:
    """This process's own open files by what they are; one socket or pipe is as good as another, so they are counted."""
    counted: dict[str, int] = {}
    for entry in (_PROC / "self/fd").iterdir():
        with suppress(OSError):
            kind = entry.readlink().as_posix().partition(":[")[0]
            counted[kind] = counted.get(kind, 0) + 1
    for kind, count in counted.items():
        yield from (f"{kind} #{number}" for number in range(1, count + 1))
