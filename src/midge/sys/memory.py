"""How much memory the host has left."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_ratio() -> float:
    """How much of the host's memory is available, 0 to 1, by the kernel's own estimate (proc(5))."""
    figures = {}
    for line in _MEMINFO.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            figures[name] = int(rest.split()[0])
    return figures["MemAvailable"] / figures["MemTotal"]
