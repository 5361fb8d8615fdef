"""Where the time of operations went, as the worker keeps it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from midge.testing.worker import create_request, mock_order, running_worker, settled
from midge.worker.local import LocalHost
from midge.worker.trace import COLD, TRACES_MAX, PhaseTrace, Traced, Traces, label_of, received_at, way_of
from midge.worker.worker import Worker

pytestmark = pytest.mark.anyio


def names(phases: Any) -> list[str]:
    return [name for name, _ in phases]


async def stopped_machine(worker: Worker, **config: Any) -> str:
    view = await worker.create(create_request(skip_launch=True, **config))
    await settled(worker, view.id, "created")
    worker.parts.traces.take()
    return view.id


async def test_a_start_leaves_its_phases_from_the_arrival_of_the_request(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host = LocalHost(worker)
        machine = await stopped_machine(worker)
        received_at.set(time.perf_counter() - 1.0)
        try:
            await host.start(machine)
        finally:
            received_at.set(None)
        (run,) = host.phases(machine, 1)
        assert names(run["phases"]) == ["api", "admission", "journal", "exec"]
        ends = [ms for _, ms in run["phases"]]
        assert ends == sorted(ends) and ends[0] >= 1000
        assert run["started_at_ns"] > 0 and run["resumed"] is False


async def test_what_has_ended_is_counted_whole_and_once(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host = LocalHost(worker)
        machine = await stopped_machine(worker)
        await host.start(machine)
        (start,) = host.take_traces()
        assert (start.operation, start.ok, start.way) == ("start", True, COLD)
        assert start.total_ms > start.phases[-1][1]  # the write that ends it is in the whole, and in no phase
        assert host.take_traces() == []
        await host.suspend(machine)
        await settled(worker, machine, "suspended")
        await host.start(machine)
        suspend, resume = host.take_traces()
        assert (suspend.operation, "save" in names(suspend.phases)) == ("suspend", True)
        assert (resume.operation, resume.way) == ("resume", "restore")


async def test_a_start_that_failed_is_counted_as_failed(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine = await stopped_machine(worker, metadata=mock_order(fail_start=1, fail_final=True))
        accepted = await worker.ask(machine, "start", {})
        assert accepted.done is not None
        with pytest.raises(Exception, match="fails as ordered"):
            await accepted.done
        (start,) = worker.parts.traces.take()
        assert start.ok is False


async def test_a_second_try_is_a_phase_of_its_own(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine = await stopped_machine(worker, metadata=mock_order(fail_start=1))
        await LocalHost(worker).start(machine)
        (start,) = worker.parts.traces.take()
        assert names(start.phases) == ["api", "admission", "journal", "retry", "exec"]


def test_what_nobody_counts_is_bounded() -> None:
    traces = Traces(limit=2)
    for number in range(3):
        traces.add(Traced("start", ok=True, total_ms=float(number), phases=[]))
    assert [traced.total_ms for traced in traces.take()] == [1.0, 2.0]
    assert TRACES_MAX >= 1000


def test_the_way_is_the_last_that_was_gone() -> None:
    assert way_of([("journal", 1.0), ("slot", 2.0), ("exec", 3.0)]) == "slot"
    assert way_of([("restore", 2.0), ("slot", 5.0)]) == "slot"  # a resume that had to start anew
    assert way_of([("journal", 1.0), ("launch", 2.0)]) == COLD


def test_a_name_nobody_knows_is_no_label() -> None:
    assert [label_of(name) for name in ("claim", "made up")] == ["claim", "other"]


def test_marks_count_from_the_given_beginning() -> None:
    trace = PhaseTrace(time.perf_counter() - 2.0)
    trace.mark("api")
    assert trace.has("api") and not trace.has("exec")
    assert trace.phases[0][1] >= 2000


def test_a_phase_that_ended_earlier_ends_no_earlier_than_the_one_before() -> None:
    trace = PhaseTrace(time.perf_counter() - 10.0)
    trace.mark("claim", 2.0)
    trace.mark("handshake", 3600.0)
    trace.mark("mounts", 1.0)
    trace.mark("exec")
    ends = dict(trace.phases)
    assert ends["claim"] == ends["handshake"] == pytest.approx(8000, abs=900)
    assert ends["mounts"] == pytest.approx(9000, abs=900)
    assert ends["exec"] >= 10_000
    trace = PhaseTrace()
    trace.mark("guest", 5.0)
    assert trace.phases == [("guest", 0.0)]
