from __future__ import annotations

import pytest

from midge.cgroup.limits import Limits, Setting, settings_v1, settings_v2
from midge.errors import InvalidInput

ALL = Limits(memory_bytes=1 << 20, swap_bytes=4096, cpus=1.5, cpu_weight=50, pids_max=9, io_weight=200)


def test_unified_hierarchy() -> None:
    assert settings_v2(ALL) == [
        Setting("memory", "memory.max", "1048576"),
        Setting("memory", "memory.swap.max", "4096", optional=True),
        Setting("cpu", "cpu.max", "150000 100000"),
        Setting("cpu", "cpu.weight", "50"),
        Setting("pids", "pids.max", "9"),
        Setting("io", "io.weight", "default 200", optional=True),
    ]


def test_legacy_hierarchies() -> None:
    assert settings_v1(ALL) == [
        Setting("memory", "memory.limit_in_bytes", "1048576"),
        Setting("memory", "memory.memsw.limit_in_bytes", "1052672", optional=True),
        Setting("cpu", "cpu.cfs_period_us", "100000", optional=True),
        Setting("cpu", "cpu.cfs_quota_us", "150000", optional=True),
        Setting("cpu", "cpu.shares", "512"),
        Setting("pids", "pids.max", "9"),
        Setting("io", "blkio.weight", "1000", optional=True),
    ]


def test_without_limits_nothing_is_written() -> None:
    assert settings_v1(Limits()) == settings_v2(Limits()) == []


def test_a_tiny_share_of_a_processor_is_raised_to_what_the_kernel_accepts() -> None:
    assert Limits(cpus=0.001, cpu_period_us=80_000).cpu_quota_us == 1000


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_bytes": 0},
        {"cpus": -1.0},
        {"pids_max": 0},
        {"cpu_weight": 10_001},
        {"io_weight": 0},
        {"cpu_period_us": 999},
        {"swap_bytes": -1},
    ],
)
def test_senseless_limits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Limits(**wrong)
