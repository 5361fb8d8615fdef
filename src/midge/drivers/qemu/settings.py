"""Knobs and places of the QEMU driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from midge.drivers.pool_settings import ParkedSettings, PoolSettings
from midge.net.resolver import Nameservers, nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuSettings:
    """Paths and choices.

    Attributes:
        rundir: sockets and small files of running machines; short, since socket paths are limited to 107 bytes.
        memory_dir: on a tmpfs: memory of running machines.
        layers: writable disks of running machines.
        machines: snapshots of suspended machines; on the same file system as `layers`.
        seal_key: the file with this host's key for snapshots; made at the first use.
        templates, kernels, blanks: made once, kept.
        kernel_flavour: ``auto``, ``debian`` or ``trimmed``.
        acceleration: ``auto``, ``kvm`` or ``tcg``.
        rootfs_mb: size of the writable layer that guests see, MiB; sparse on the host.
        pool: of warm slots.
        parked: bounds of the VMs that suspended machines leave standing.
        nameservers: what guests ask where the machine names none.
    """

    rundir: Path
    memory_dir: Path
    layers: Path
    machines: Path
    seal_key: Path
    templates: Path
    kernels: Path
    blanks: Path
    binary: str = "qemu-system-x86_64"
    kernel_flavour: Literal["auto", "debian", "trimmed", "custom"] = "auto"
    acceleration: Literal["auto", "kvm", "tcg"] = "auto"
    rootfs_mb: int = 8192
    nameservers: Nameservers = nobody
    pool: PoolSettings = field(default_factory=PoolSettings)
    parked: ParkedSettings = field(default_factory=ParkedSettings)

    def folders(self) -> list[Path]:
        return [self.rundir, self.memory_dir, self.layers, self.machines, self.templates, self.blanks]
