"""What a template of this driver is made from; how templates are kept: `midge.drivers.templates`.

`memory` is the guest's memory, sparse; `state` its devices, as QEMU's migration stream (memory not included:
x-ignore-shared).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midge.drivers.disks import copy_without_zeros
from midge.drivers.qemu.command import Hardware
from midge.kernel.cmdline import PARAMETERS_ID
from midge.kernel.store import Kernel

FORMAT = 4  # raise it when templates are saved in another way


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A booted guest with a waiting init. `upper_mb` is the size of the writable disk it has seen."""

    hardware: Hardware
    kernel: Kernel
    qemu_version: str
    upper_mb: int

    def facts(self) -> dict[str, Any]:
        """Everything that must agree between the QEMU that saved and the one that restores."""
        return {
            "format": FORMAT,
            "hardware": self.hardware.identity(),
            "kernel": self.kernel.id,
            "parameters": PARAMETERS_ID,
            "qemu": self.qemu_version,
            "upper_mb": self.upper_mb,
        }

    @property
    def key(self) -> str:
        text = "\n".join(f"{name}={value}" for name, value in sorted(self.facts().items()))
        return hashlib.sha256(f"qemu\n{text}".encode()).hexdigest()[:24]


def save_memory(source: Path, target: Path) -> None:
    """Copies what is not zero of a guest's memory into a template: each VM made of it is spared the rest."""
    read_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        write_fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            copy_without_zeros(read_fd, write_fd)
        finally:
            os.close(write_fd)
    finally:
        os.close(read_fd)
