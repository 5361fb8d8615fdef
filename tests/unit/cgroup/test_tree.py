"""Against directories that look like the kernel's; the real ones are in tests/integration/cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest

from midge.cgroup import CgroupTree, Limits
from midge.errors import Conflict, DeadlineExceeded, InvalidInput, NotSupported

V2_FILES = {
    "cgroup.procs": "",
    "cgroup.controllers": "memory cpu pids\n",
    "cgroup.subtree_control": "memory cpu pids\n",
    "cgroup.freeze": "0\n",
    "cgroup.events": "populated 0\nfrozen 0\n",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.current": "8192\n",
    "memory.events": "low 0\noom 3\noom_kill 2\n",
    "cpu.max": "max 100000\n",
    "cpu.stat": "usage_usec 1500\nuser_usec 1000\n",
    "pids.max": "max\n",
}


def fill(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(content)


@pytest.fixture
def unified(tmp_path: Path) -> CgroupTree:
    for directory in (tmp_path, tmp_path / "midge-x", tmp_path / "midge-x" / "m1"):
        fill(directory, V2_FILES)
    tree = CgroupTree(tmp_path, parent="midge-x")
    tree.open()
    return tree


@pytest.fixture
def legacy(tmp_path: Path) -> CgroupTree:
    """``cpu`` and ``cpuacct`` share a hierarchy, as they do under systemd; there is no pids and no blkio."""
    files = {
        "memory": {
            "memory.limit_in_bytes": "",
            "memory.oom_control": "oom_kill_disable 0\noom_kill 4\n",
            "memory.usage_in_bytes": "4096\n",
        },
        "cpu,cpuacct": {
            "cpu.cfs_period_us": "",
            "cpu.cfs_quota_us": "",
            "cpu.shares": "",
            "cpuacct.usage": "77\n",
        },
        "freezer": {"freezer.state": "THAWED\n"},
    }
    for hierarchy, contents in files.items():
        for directory in (tmp_path / hierarchy, tmp_path / hierarchy / "midge-x" / "m1"):
            fill(directory, {**contents, "cgroup.procs": ""})
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    tree = CgroupTree(tmp_path, parent="midge-x")
    tree.open()
    return tree


def test_unified_limits_are_written_to_one_directory(unified: CgroupTree, tmp_path: Path) -> None:
    group = unified.create("m1", Limits(memory_bytes=4096, cpus=0.5, pids_max=7))
    home = tmp_path / "midge-x" / "m1"
    assert unified.version == 2
    assert group.procs_files() == [home / "cgroup.procs"]
    written = {
        name: (home / name).read_text() for name in ("memory.max", "memory.swap.max", "cpu.max", "pids.max")
    }
    assert written == {
        "memory.max": "4096",
        "memory.swap.max": "0",
        "cpu.max": "50000 100000",
        "pids.max": "7",
    }


def test_unified_figures(unified: CgroupTree) -> None:
    group = unified.get("m1")
    assert (group.oom_kills(), group.memory_usage(), group.cpu_usage_ns()) == (2, 8192, 1_500_000)


def test_a_missing_controller_is_listed_and_its_limits_are_left_out(unified: CgroupTree) -> None:
    assert unified.controllers == {"memory", "cpu", "pids", "cpuacct", "freezer"}
    unified.create("m1", Limits(io_weight=100))


def test_legacy_limits_are_written_to_each_hierarchy(legacy: CgroupTree, tmp_path: Path) -> None:
    group = legacy.create("m1", Limits(memory_bytes=4096, cpus=2, cpu_weight=100, pids_max=7))
    assert legacy.version == 1
    assert legacy.controllers == {"memory", "cpu", "cpuacct", "freezer"}
    assert group.procs_files() == [
        tmp_path / hierarchy / "midge-x" / "m1" / "cgroup.procs"
        for hierarchy in ("memory", "cpu,cpuacct", "freezer")
    ]
    assert (tmp_path / "cpu" / "midge-x" / "m1" / "cpu.cfs_quota_us").read_text() == "200000"
    assert (tmp_path / "cpu" / "midge-x" / "m1" / "cpu.shares").read_text() == "1024"
    assert (tmp_path / "memory" / "midge-x" / "m1" / "memory.limit_in_bytes").read_text() == "4096"


def test_legacy_figures(legacy: CgroupTree) -> None:
    group = legacy.get("m1")
    assert (group.oom_kills(), group.memory_usage(), group.cpu_usage_ns()) == (4, 4096, 77)


def test_a_figure_without_its_controller_is_not_supported(legacy: CgroupTree, tmp_path: Path) -> None:
    (tmp_path / "memory" / "cgroup.procs").unlink()
    tree = CgroupTree(tmp_path, parent="midge-x")
    tree.open()
    with pytest.raises(NotSupported, match="controller memory"):
        tree.get("m1").memory_usage()


def test_a_group_in_use_is_not_made_again(unified: CgroupTree, tmp_path: Path) -> None:
    (tmp_path / "midge-x" / "m1" / "cgroup.procs").write_text("1\n")
    with pytest.raises(Conflict, match="m1 exists"):
        unified.create("m1", Limits())


@pytest.mark.anyio
async def test_freezing_ends_when_the_kernel_says_so(unified: CgroupTree, tmp_path: Path) -> None:
    (tmp_path / "midge-x" / "m1" / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    await unified.get("m1").freeze()
    assert (tmp_path / "midge-x" / "m1" / "cgroup.freeze").read_text() == "1"


@pytest.mark.anyio
@pytest.mark.parametrize("hierarchy", ["unified", "legacy"])
async def test_a_group_that_does_not_freeze_runs_on(
    hierarchy: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tree: CgroupTree = request.getfixturevalue(hierarchy)
    group = tree.get("m1")
    state = group.directories["freezer"] / ("cgroup.freeze" if tree.version == 2 else "freezer.state")
    if tree.version == 1:
        # A kernel that is still at it says FREEZING; this file says it whatever is written.
        state.unlink()
        state.symlink_to("/dev/null")
    with pytest.raises(DeadlineExceeded, match="did not freeze"):
        await group.freeze(timeout_s=0.02)
    assert tree.version == 1 or state.read_text() == "0"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_names_stay_below_the_parent(unified: CgroupTree, name: str) -> None:
    with pytest.raises(InvalidInput):
        unified.get(name)


@pytest.mark.parametrize("parent", ["", "/abs", "a/../../b"])
def test_parents_stay_below_the_root(parent: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        CgroupTree(tmp_path, parent=parent)


def test_a_host_without_cgroups_is_not_supported(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="no cgroup hierarchy"):
        CgroupTree(tmp_path, parent="midge-x").open()
