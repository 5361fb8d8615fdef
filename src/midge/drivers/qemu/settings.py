"""Knobs and places of the QEMU driver."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

BOOT_ADDRESS = IPv4Address("10.61.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuSettings:
    """Paths and choices.

    Attributes:
        rundir: sockets and small files of running machines; short, since socket paths are limited to 107 bytes.
        memory_dir: on a tmpfs: memory of running machines.
        machines: writable layers.
        templates, kernels, blanks: made once, kept.
        kernel_flavour: ``auto``, ``debian`` or ``trimmed``.
        acceleration: ``auto``, ``kvm`` or ``tcg``.
        rootfs_mb: size of the writable layer that guests see, MiB; sparse on the host.
        boot_address: of guests that boot for a template; no machine has it, and only one boots at a time.
        nameservers: what guests ask where the machine names none.
    """

    rundir: Path
    memory_dir: Path
    machines: Path
    templates: Path
    kernels: Path
    blanks: Path
    binary: str = "qemu-system-x86_64"
    kernel_flavour: Literal["auto", "debian", "trimmed", "custom"] = "auto"
    acceleration: Literal["auto", "kvm", "tcg"] = "auto"
    rootfs_mb: int = 8192
    boot_address: IPv4Address = BOOT_ADDRESS
    nameservers: tuple[str, ...] = ()
