"""Limits of a machine, and the files they are written to: pure.

Files and units are those of the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from midge.errors import InvalidInput

Controller = Literal["memory", "cpu", "cpuacct", "pids", "io", "freezer"]

# The kernel's bounds. cfs_quota_us under 1000 is refused, weights are 1..10000 in v2.
_QUOTA_US_MIN = 1000
_PERIOD_US = range(1000, 1_000_001)
_WEIGHT = range(1, 10_001)
_SHARES_MIN, _SHARES_MAX = 2, 262_144
_BLKIO_WEIGHT_MIN, _BLKIO_WEIGHT_MAX = 10, 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a control group may use; None leaves a resource without limit.

    Attributes:
        memory_bytes: of everything in the group: for a VM guest memory and the VMM's own, so add headroom.
        swap_bytes: on top of that.
        cpus: processors' worth of time, such as 0.5 or 4.
        cpu_period_us: the time over which `cpus` is measured; shorter is smoother, longer allows bursts.
        cpu_weight: share under contention, 1 to 10000, 100 being the default.
        pids_max: processes and threads.
        io_weight: share of disk time under contention, 1 to 10000, 100 being the default.
    """

    memory_bytes: int | None = None
    swap_bytes: int = 0
    cpus: float | None = None
    cpu_period_us: int = 100_000
    cpu_weight: int | None = None
    pids_max: int | None = None
    io_weight: int | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("memory_bytes", self.memory_bytes),
            ("cpus", self.cpus),
            ("pids_max", self.pids_max),
        ):
            if value is not None and value <= 0:
                raise InvalidInput(f"limit {name} must be positive, not {value}")
        if self.swap_bytes < 0:
            raise InvalidInput(f"limit swap_bytes must not be negative, but is {self.swap_bytes}")
        if self.cpu_period_us not in _PERIOD_US:
            raise InvalidInput(f"limit cpu_period_us must be 1000 to 1000000, not {self.cpu_period_us}")
        for name, weight in (("cpu_weight", self.cpu_weight), ("io_weight", self.io_weight)):
            if weight is not None and weight not in _WEIGHT:
                raise InvalidInput(f"limit {name} must be 1 to 10000, not {weight}")

    @property
    def cpu_quota_us(self) -> int | None:
        """Microseconds of processor time in each period."""
        return None if self.cpus is None else max(_QUOTA_US_MIN, round(self.cpus * self.cpu_period_us))


@dataclass(frozen=True, slots=True)
class Setting:
    """One value for one file of a controller.

    Attributes:
        optional: many kernels are built without this file; then the rest of the limits must do.
    """

    controller: Controller
    file: str
    value: str
    optional: bool = False


def settings_v2(limits: Limits) -> list[Setting]:
    """What to write into a group of the unified hierarchy, in this order."""
    settings: list[Setting] = []
    if limits.memory_bytes is not None:
        settings.append(Setting("memory", "memory.max", str(limits.memory_bytes)))
        settings.append(Setting("memory", "memory.swap.max", str(limits.swap_bytes), optional=True))
    if limits.cpus is not None:
        settings.append(Setting("cpu", "cpu.max", f"{limits.cpu_quota_us} {limits.cpu_period_us}"))
    if limits.cpu_weight is not None:
        settings.append(Setting("cpu", "cpu.weight", str(limits.cpu_weight)))
    if limits.pids_max is not None:
        settings.append(Setting("pids", "pids.max", str(limits.pids_max)))
    if limits.io_weight is not None:
        settings.append(Setting("io", "io.weight", f"default {limits.io_weight}", optional=True))
    return settings


def settings_v1(limits: Limits) -> list[Setting]:
    """What to write into the groups of the legacy hierarchies, in this order."""
    settings: list[Setting] = []
    if limits.memory_bytes is not None:
        # Before memory+swap, which may never be the smaller of the two.
        settings.append(Setting("memory", "memory.limit_in_bytes", str(limits.memory_bytes)))
        both = str(limits.memory_bytes + limits.swap_bytes)
        settings.append(Setting("memory", "memory.memsw.limit_in_bytes", both, optional=True))
    if limits.cpus is not None:
        settings.append(Setting("cpu", "cpu.cfs_period_us", str(limits.cpu_period_us), optional=True))
        settings.append(Setting("cpu", "cpu.cfs_quota_us", str(limits.cpu_quota_us), optional=True))
    if limits.cpu_weight is not None:
        shares = limits.cpu_weight * 1024 // 100
        settings.append(Setting("cpu", "cpu.shares", str(_clamp(shares, _SHARES_MIN, _SHARES_MAX))))
    if limits.pids_max is not None:
        settings.append(Setting("pids", "pids.max", str(limits.pids_max)))
    if limits.io_weight is not None:
        weight = _clamp(limits.io_weight * 5, _BLKIO_WEIGHT_MIN, _BLKIO_WEIGHT_MAX)
        settings.append(Setting("io", "blkio.weight", str(weight), optional=True))
    return settings


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))
