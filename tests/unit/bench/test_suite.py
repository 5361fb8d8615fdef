from __future__ import annotations

from midge.bench.context import DRIVERS
from midge.bench.runner import Remote, groups
from midge.bench.suite import load


def test_benchmarks_are_found_by_their_files() -> None:
    names = [one.name for one in load()]
    assert names == ["control-plane", "create", "density", "exec", "resume", "start", "suspend"]


def test_every_benchmark_has_a_line_about_it_and_known_drivers() -> None:
    for one in load():
        assert one.about.endswith(".")
        assert one.drivers and set(one.drivers) <= set(DRIVERS)


def test_a_benchmark_without_a_wanted_driver_runs_once_with_its_own() -> None:
    control_plane = [one for one in load() if one.name == "control-plane"]
    found = [
        (group.driver, len(group.benchmarks)) for group in groups(control_plane, ["container", "qemu"], None)
    ]
    assert found == [("mock", 1)]


def test_a_benchmark_that_wants_a_fresh_server_shares_none() -> None:
    found = [group.benchmarks for group in groups(load(), ["mock"], None) if group.driver == "mock"]
    alone = [group for group in found if any(one.fresh_server for one in group)]
    assert [len(group) for group in alone] == [1]


def test_a_running_server_takes_all() -> None:
    found = groups(load(), ["mock"], Remote("http://x", "t", "qemu"))
    assert [(group.driver, len(group.benchmarks)) for group in found] == [("qemu", len(load()))]
