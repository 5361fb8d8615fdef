"""Settings, recipes and jails for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from midge.drivers.firecracker.recipe import Recipe
from midge.drivers.firecracker.settings import FirecrackerSettings
from midge.kernel.store import Kernel
from midge.machine.spec import Shape


def make_settings(home: Path = Path("/home"), **changes: Any) -> FirecrackerSettings:
    paths = ("rundir", "jails", "machines", "templates", "snapshots", "kernels", "blanks", "key_file")
    return FirecrackerSettings(**{**{name: home / name for name in paths}, **changes})


def make_kernel(folder: Path = Path("/kernel")) -> Kernel:
    return Kernel(
        id="0123456789abcdef",
        flavour="trimmed",
        version="6.1.0",
        image=folder / "image",
        initramfs=folder / "initramfs",
        cmdline="",
        needs_acpi=False,
        elf=True,
        created_ns=0,
    )


def make_recipe(**changes: Any) -> Recipe:
    defaults: dict[str, Any] = {
        "shape": Shape(),
        "kernel": make_kernel(),
        "version": "1.12.1",
        "upper_mb": 64,
        "track_dirty_pages": False,
    }
    return Recipe(**{**defaults, **changes})
