"""Knobs and places of the Firecracker driver."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from midge.net.resolver import Nameservers, nobody

BOOT_ADDRESS = IPv4Address("10.61.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A token bucket: `size` tokens (bytes or operations), filled again within `refill_ms`."""

    size: int
    refill_ms: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class IoLimits:
    """What one device may do, in bytes and in operations. None: no limit."""

    bandwidth: Limit | None = None
    operations: Limit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirecrackerSettings:
    """Paths and choices.

    `jails`, `machines`, `templates`, `snapshots` and the images belong on one file system: files are hard-linked into
    jails. It must allow devices and execution (no ``nodev``, no ``noexec``).

    Attributes:
        rundir: sockets and small files of running machines; short, since socket paths are limited to 107 bytes.
        jails: what each VMM sees as its root; short too.
        machines: writable layers.
        templates, kernels, blanks: made once, kept.
        snapshots: suspended machines.
        key_file: of the seals on templates and snapshots.
        firecracker, jailer: programs, as a path or a name to be found in PATH.
        kernel_flavour: see `midge.kernel.store`.
        rootfs_mb: size of the writable layer that guests see, MiB; sparse on the host.
        drive_limits: of the writable disk of each machine.
        rx_limits, tx_limits: of what each machine receives and sends.
        track_dirty_pages: suspending then writes only what has changed, at the price of a page fault at each first
            write to a page while the machine runs.
        boot_address: of guests that boot for a template; no machine has it, and only one boots at a time.
        nameservers: what guests ask where the machine names none.
    """

    rundir: Path
    jails: Path
    machines: Path
    templates: Path
    snapshots: Path
    kernels: Path
    blanks: Path
    key_file: Path
    firecracker: str = "firecracker"
    jailer: str = "jailer"
    kernel_flavour: Literal["auto", "debian", "trimmed", "custom"] = "auto"
    rootfs_mb: int = 8192
    drive_limits: IoLimits | None = None
    rx_limits: IoLimits | None = None
    tx_limits: IoLimits | None = None
    track_dirty_pages: bool = False
    boot_address: IPv4Address = BOOT_ADDRESS
    nameservers: Nameservers = nobody
