"""The engine: which errors are tried again, what later steps see, what is written when."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from midge.errors import (
    Abort,
    DriverError,
    InvalidInput,
    NoCapacity,
    NotFound,
    NotSupported,
    OutOfSpace,
    Unavailable,
    Unrecoverable,
)
from midge.operations.engine import Engine, error_as_data
from midge.operations.model import BACKOFF_FIRST_S, BACKOFF_MAX_S, Operation, Run, Step

pytestmark = pytest.mark.anyio


@dataclass
class Journal:
    written: list[tuple[str, Any, str]] = field(default_factory=list)
    error: Exception | None = None

    async def step_done(self, run: Run, step: str, output: Any, next_step: str) -> None:
        if self.error is not None:
            raise self.error
        self.written.append((step, output, next_step))


@dataclass
class Subject:
    """The context of the steps: what they did."""

    done: list[str] = field(default_factory=list)
    finalised: list[BaseException | None] = field(default_factory=list)

    def step(self, name: str, *errors: Exception, attempts: int = 5) -> Step[Subject]:
        left = list(errors)

        async def action(context: Subject) -> str:
            context.done.append(name)
            if left:
                raise left.pop(0)
            return f"{name}'s"

        return Step(name, action, attempts)


@dataclass
class Bench:
    journal: Journal = field(default_factory=Journal)
    subject: Subject = field(default_factory=Subject)
    slept_s: list[float] = field(default_factory=list)
    run: Run = field(default_factory=lambda: Run("01", "m", "test", {}, step="a"))

    async def execute(self, *steps: Step[Subject]) -> Exception | None:
        async def sleep(delay_s: float) -> None:
            self.slept_s.append(delay_s)

        async def finalise(context: Subject, error: BaseException | None) -> None:
            context.finalised.append(error)

        engine = Engine(self.journal, sleep)
        return (await engine.execute(Operation("test", steps, finalise), self.run, self.subject)).error


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_each_output_is_written_with_the_next_intent_but_for_the_last(bench: Bench) -> None:
    step = bench.subject.step
    assert await bench.execute(step("a"), step("b"), step("c")) is None
    assert bench.journal.written == [("a", "a's", "b"), ("b", "b's", "c")]
    assert bench.run.outputs == {"a": "a's", "b": "b's", "c": "c's"}
    assert bench.run.step == "c"


async def test_steps_that_are_done_are_not_run_again(bench: Bench) -> None:
    bench.run.outputs = {"a": None}
    await bench.execute(bench.subject.step("a"), bench.subject.step("b"))
    assert bench.subject.done == ["b"]


async def test_later_steps_see_what_earlier_ones_returned(bench: Bench) -> None:
    async def look(_: Subject) -> Any:
        return bench.run.outputs["a"]

    await bench.execute(bench.subject.step("a"), Step("b", look))
    assert bench.run.outputs["b"] == "a's"


@pytest.mark.parametrize("error", [DriverError("x"), Unavailable("x"), OSError(5, "x"), ValueError("x")])
async def test_other_errors_are_tried_again_with_growing_pauses(bench: Bench, error: Exception) -> None:
    assert await bench.execute(bench.subject.step("a", error, error, error)) is None
    assert bench.subject.done == ["a"] * 4
    for index, slept_s in enumerate(bench.slept_s):
        longest_s = BACKOFF_FIRST_S * 2**index
        assert longest_s / 2 <= slept_s <= longest_s


async def test_pauses_and_attempts_have_a_limit(bench: Bench) -> None:
    error = DriverError("x")
    assert await bench.execute(bench.subject.step("a", *[error] * 20, attempts=10)) is error
    assert bench.subject.done == ["a"] * 10
    assert max(bench.slept_s) <= BACKOFF_MAX_S


@pytest.mark.parametrize(
    "error",
    [
        Abort("x"),
        Unrecoverable("x", kind="user"),
        InvalidInput("x"),
        NotFound("x"),
        NotSupported("x"),
        NoCapacity("x"),
        OutOfSpace("x"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_final_errors_end_the_operation_at_once(bench: Bench, error: Exception) -> None:
    assert await bench.execute(bench.subject.step("a", error), bench.subject.step("b")) is error
    assert bench.subject.done == ["a"]
    assert bench.slept_s == []


async def test_the_finaliser_always_runs_and_is_told(bench: Bench) -> None:
    error = Abort("x")
    await bench.execute(bench.subject.step("a"))
    await bench.execute(bench.subject.step("b", error))
    assert bench.subject.finalised == [None, error]


@pytest.mark.parametrize("failed_before", [True, False])
async def test_a_finaliser_that_fails_does_not_hide_the_first_error(failed_before: bool) -> None:
    async def finalise(_: Subject, __: BaseException | None) -> None:
        raise DriverError("finaliser")

    errors = [Abort("step")] if failed_before else []
    operation = Operation("test", [Subject().step("a", *errors)], finalise)
    outcome = await Engine(Journal()).execute(operation, Run("01", "m", "test", {}), Subject())
    assert str(outcome.error) == ("step" if failed_before else "finaliser")


async def test_a_journal_that_cannot_be_written_fails_the_operation(bench: Bench) -> None:
    bench.journal.error = OutOfSpace("no space left for host.db")
    error = await bench.execute(bench.subject.step("a"), bench.subject.step("b"))
    assert error is bench.journal.error
    assert bench.subject.done == ["a"], "no step without its intent on disk"
    assert bench.subject.finalised == [error]


async def test_cancellation_writes_nothing_and_runs_no_finaliser(bench: Bench) -> None:
    begun = asyncio.Event()

    async def hang(_: Subject) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(bench.execute(Step("a", hang), bench.subject.step("b")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.journal.written == []
    assert bench.subject.finalised == []
    assert bench.run.outputs == {}


def test_an_error_as_data_keeps_code_chain_and_hint() -> None:
    error = DriverError("no start", hint="try again")
    error.__cause__ = OSError("disk")
    assert error_as_data(error) == {"code": "driver_failed", "message": "no start: disk", "hint": "try again"}
    assert error_as_data(ValueError("x")) == {"code": "internal", "message": "x", "hint": ""}
