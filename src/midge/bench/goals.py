"""What Midge wants to reach, one line a goal. A missed goal is shown and fails nothing: hosts differ."""

from __future__ import annotations

from typing import Literal

import msgspec

from midge.bench.model import Measurement, Report
from midge.bench.stats import Summary, ratio, summarize

Statistic = Literal["p50", "p99", "min", "max", "ratio"]


class Goal(msgspec.Struct, kw_only=True, frozen=True):
    """A limit of one statistic of one measurement.

    Attributes:
        variant: empty: any.
        statistic: ``ratio`` is the median over the median of the measurement's floor.
        limit: in the measurement's unit.
        at_least: the limit is a lower one.
        next: what comes after the limit is reached.
    """

    bench: str
    driver: str
    name: str
    statistic: Statistic
    limit: float
    variant: str = ""
    at_least: bool = False
    next: float | None = None


class Judged(msgspec.Struct, kw_only=True, frozen=True):
    """A goal beside what was measured; `value` None: it was not."""

    goal: Goal
    variant: str
    value: float | None
    met: bool
    next_met: bool


def _goal(bench: str, driver: str, name: str, statistic: Statistic, limit: float, **more: object) -> Goal:
    return msgspec.convert(
        {"bench": bench, "driver": driver, "name": name, "statistic": statistic, "limit": limit, **more}, Goal
    )


def _crowd(bench: str, driver: str, what: str, *, variant: str = "") -> tuple[Goal, Goal]:
    """Of 50 at once none fails, and the slowest waits no longer than if all had queued for the processors."""
    name = f"{what}, {CROWD} at once"
    return (
        _goal(bench, driver, f"{name}: failed", "max", 0, variant=variant),
        _goal(bench, driver, f"{name}: load", "max", 1, variant=variant),
    )


CROWD = 50
MB_50 = 50e6 / 2**20  # 50 MB in the measurement's MiB

GOALS: tuple[Goal, ...] = (
    _goal("start", "qemu", "first byte, new VMM", "p50", 400, variant="kernel=debian"),
    _goal("start", "qemu", "first byte, new VMM", "p50", 320, variant="kernel=trimmed"),
    _goal("start", "qemu", "first byte, new VMM", "ratio", 1.25, variant="kernel=debian"),
    _goal("start", "qemu", "first byte, new VMM", "ratio", 1.25, variant="kernel=trimmed"),
    _goal("start", "qemu", "first byte, waiting VMM", "p50", 330, variant="kernel=debian"),
    _goal("start", "qemu", "first byte, waiting VMM", "p50", 270, variant="kernel=trimmed"),
    _goal("start", "qemu", "first byte, warm slot", "p50", 130, variant="kernel=debian"),
    _goal("start", "qemu", "first byte, warm slot", "p50", 60, variant="kernel=trimmed"),
    *_crowd("start", "qemu", "first byte", variant="kernel=trimmed"),
    _goal("start", "container", "first byte", "ratio", 1.6, next=1.2),
    _goal("start", "container", "first byte, warm slot", "ratio", 1.2),
    _goal("start", "container", "podman start: first byte", "ratio", 4, at_least=True),
    *_crowd("start", "container", "first byte"),
    _goal("start", "mock", "started", "p50", 2),
    *_crowd("create", "qemu", "created"),
    _goal("control-plane", "mock", "starts, 50 clients", "p50", 800, at_least=True),
    _goal("control-plane", "mock", "start at 300/s, 50 clients", "p50", 2),
    _goal("control-plane", "mock", "start at 300/s, 50 clients", "p99", 10),
    _goal("control-plane", "mock", "memory, 10000 stopped", "max", 350),
    _goal("control-plane", "mock", "restart to ready, 10000 stopped", "max", 5000),
    _goal("control-plane", "mock", "first page of 100, 10000 stopped", "p50", 100),
    _goal("resume", "qemu", "exec answered, parked", "p50", 65),
    _goal("resume", "qemu", "exec answered, 2 GiB, restore", "ratio", 1.3),
    _goal("suspend", "qemu", "suspended", "p50", 40),
    _goal("density", "qemu", "private memory", "p50", MB_50),
    _goal("density", "qemu", "suspended", "max", 0),
    _goal("density", "qemu", "stopped", "max", 0),
)


def judge(report: Report, goals: tuple[Goal, ...] = GOALS) -> list[Judged]:
    """Every goal whose benchmark was run with its driver, in the order of the table."""
    ran = {(m.bench, m.driver) for m in report.measurements}
    ran |= {(s.bench, s.driver) for s in report.skipped}
    judged = []
    for goal in goals:
        if (goal.bench, goal.driver) not in ran:
            continue
        found = [m for m in report.measurements if _is_of(goal, m)]
        judged += [_judge(goal, m, report) for m in found] or [
            Judged(goal=goal, variant=goal.variant, value=None, met=False, next_met=False)
        ]
    return judged


def _is_of(goal: Goal, measured: Measurement) -> bool:
    same = (measured.bench, measured.driver, measured.name) == (goal.bench, goal.driver, goal.name)
    return same and goal.variant in ("", measured.variant)


def _judge(goal: Goal, measured: Measurement, report: Report) -> Judged:
    if goal.statistic == "ratio":
        floor = report.find(measured.bench, measured.driver, measured.variant, measured.floor)
        value = ratio(measured.samples, floor.samples if floor else [])
    else:
        value = _statistic(summarize(measured.samples), goal.statistic)

    def reached(limit: float | None) -> bool:
        if value is None or limit is None:
            return False
        return value >= limit if goal.at_least else value <= limit

    return Judged(
        goal=goal, variant=measured.variant, value=value, met=reached(goal.limit), next_met=reached(goal.next)
    )


def _statistic(summary: Summary, name: Statistic) -> float:
    value: float = getattr(summary, name)
    return value
