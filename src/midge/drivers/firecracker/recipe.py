"""What a template depends on, and what a snapshot must agree with: only the same may be restored."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midge.kernel.cmdline import PARAMETERS_ID
from midge.kernel.store import Kernel
from midge.machine.spec import Shape

# Raise it when devices, their order or their settings change: templates of another layout are not restored.
LAYOUT = 1
# Lines of /proc/cpuinfo that say what a guest may use and how it behaves.
_CPU_LINES = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")


@functools.cache
def cpu_identity(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """This host's processor, short: a snapshot of another one may not run, or run wrongly."""
    first = cpuinfo.read_text().partition("\n\n")[0]
    lines = (line.partition(":") for line in first.splitlines())
    known = {name.strip(): value.strip() for name, _, value in lines}
    text = "\n".join(f"{name}: {known.get(name, '')}" for name in _CPU_LINES)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A guest of one shape. `upper_mb` is the size of the writable disk it has seen."""

    shape: Shape
    kernel: Kernel
    version: str
    upper_mb: int
    track_dirty_pages: bool

    def facts(self) -> dict[str, Any]:
        """Everything that must agree between the VMM that saved and the one that restores."""
        return {
            "layout": LAYOUT,
            "firecracker": self.version,
            "kernel": self.kernel.id,
            "parameters": PARAMETERS_ID,
            # KVM is part of it: its features come and go with the host's kernel.
            "host_kernel": os.uname().release,
            "cpu": cpu_identity(),
            "cpus": self.shape.cpus,
            "memory_mb": self.shape.memory_mb,
            "upper_mb": self.upper_mb,
            "track_dirty_pages": self.track_dirty_pages,
        }

    @property
    def key(self) -> str:
        text = "\n".join(f"{name}={value}" for name, value in sorted(self.facts().items()))
        return hashlib.sha256(f"firecracker\n{text}".encode()).hexdigest()[:24]
