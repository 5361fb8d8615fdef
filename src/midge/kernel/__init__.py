"""Guest kernels: fetched from the distribution or built, packed with an init, kept by content."""

from __future__ import annotations

from midge.kernel.cmdline import build as build_cmdline
from midge.kernel.debian import KernelFiles
from midge.kernel.debian import fetch as fetch_debian
from midge.kernel.store import Kernel, KernelStore, default_root
from midge.kernel.trimmed import build_trimmed

__all__ = [
    "Kernel",
    "KernelFiles",
    "KernelStore",
    "build_cmdline",
    "build_trimmed",
    "default_root",
    "fetch_debian",
]
