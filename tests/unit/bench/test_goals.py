from __future__ import annotations

from midge.bench.goals import GOALS, Goal, judge
from midge.bench.suite import load
from tests.unit.bench.reports import measured, report


def _goal(**changes: object) -> Goal:
    fields: dict[str, object] = {
        "bench": "start", "driver": "container", "name": "first byte", "statistic": "p50", "limit": 50,
        **changes,
    }  # fmt: skip
    return Goal(**fields)  # type: ignore[arg-type]  # the fields of a Goal, by name


def test_a_goal_is_met_at_its_limit() -> None:
    found = judge(report(measured("first byte", [50.0])), (_goal(),))
    assert [(one.value, one.met) for one in found] == [(50.0, True)]


def test_a_goal_is_missed_above_its_limit() -> None:
    assert not judge(report(measured("first byte", [50.1])), (_goal(),))[0].met


def test_a_rate_is_met_from_its_limit_upwards() -> None:
    goal = _goal(at_least=True, limit=300, next=800)
    found = judge(report(measured("first byte", [500.0])), (goal,))[0]
    assert (found.met, found.next_met) == (True, False)


def test_a_ratio_is_to_the_floor_of_the_same_variant() -> None:
    found = judge(
        report(
            measured("first byte", [30.0], variant="x", floor="floor"),
            measured("floor", [10.0], variant="x"),
            measured("floor", [1.0], variant="y"),
        ),
        (_goal(statistic="ratio", limit=3.5),),
    )
    assert [(one.variant, one.value, one.met) for one in found] == [("x", 3.0, True)]


def test_a_ratio_without_a_floor_is_not_measured() -> None:
    found = judge(report(measured("first byte", [30.0])), (_goal(statistic="ratio"),))
    assert [(one.value, one.met) for one in found] == [(None, False)]


def test_a_goal_of_what_was_run_but_not_measured_is_shown() -> None:
    found = judge(report(measured("other", [1.0])), (_goal(),))
    assert [(one.value, one.met) for one in found] == [(None, False)]


def test_a_goal_of_what_was_not_run_is_not_shown() -> None:
    assert judge(report(measured("first byte", [1.0], driver="mock")), (_goal(),)) == []


def test_every_goal_belongs_to_a_benchmark_that_runs_with_its_driver() -> None:
    drivers = {one.name: one.drivers for one in load()}
    for goal in GOALS:
        assert goal.driver in drivers[goal.bench], goal
