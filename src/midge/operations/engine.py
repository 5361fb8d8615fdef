"""Runs an operation's steps against a journal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import structlog

from midge.errors import MidgeError, chain
from midge.operations.model import (
    BACKOFF_FACTOR,
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    Operation,
    Outcome,
    Run,
    Step,
)

C = TypeVar("C")

_log = structlog.get_logger("midge.operations")


class Journal(Protocol):
    """Where runs are written. Each call returns when it is durable."""

    async def step_done(self, run: Run, step: str, output: Any, next_step: str) -> None:
        """Records the output of `step` and the intent of `next_step` in one transaction."""
        ...


Sleep = Callable[[float], Awaitable[None]]


def error_as_data(error: BaseException) -> dict[str, Any]:
    """What the journal keeps of an exception: enough to explain it after a restart."""
    code = error.code if isinstance(error, MidgeError) else "internal"
    hint = error.hint if isinstance(error, MidgeError) else ""
    return {"code": code, "message": chain(error), "hint": hint}


class Engine:
    """Executes runs. Stateless between calls: all it knows is in the run and the journal."""

    def __init__(self, journal: Journal, sleep: Sleep = asyncio.sleep) -> None:
        self._journal = journal
        self._sleep = sleep

    async def execute(self, operation: Operation[C], run: Run, context: C) -> Outcome:
        """Runs the steps that are not done yet, then the finaliser.

        The intent of the first step must be durable already (`run.step`). Does not write the end of the run: the
        caller does, together with what follows from it.

        Raises:
            asyncio.CancelledError: nothing is written, the run can be resumed.
        """
        error: Exception | None = None
        steps = list(operation.steps)
        for index, step in enumerate(steps):
            if step.name in run.outputs:
                continue
            following = steps[index + 1].name if index + 1 < len(steps) else ""
            try:
                output = run.outputs[step.name] = await self._attempt(step, run, context)
                if following:
                    # The last step's output travels with the end of the run: one commit less on the start path.
                    await self._journal.step_done(run, step.name, output, following)
                    run.step = following
            except Exception as failure:  # of the step, or of the journal: no step without its intent on disk
                error = failure
                break
        if operation.finalise is not None:
            try:
                await operation.finalise(context, error)
            except Exception as failure:
                _log.warning(
                    "finaliser failed", operation=run.kind, subject=run.subject, error=chain(failure)
                )
                error = error or failure
        return Outcome(error)

    async def _attempt(self, step: Step[C], run: Run, context: C) -> Any:
        delay_s = BACKOFF_FIRST_S
        for attempt in range(1, step.attempts + 1):
            try:
                return await step.action(context)
            except Exception as error:
                if isinstance(error, MidgeError) and not error.retried:
                    raise
                _log.warning(
                    "step failed",
                    operation=run.kind,
                    subject=run.subject,
                    step=step.name,
                    attempt=attempt,
                    of=step.attempts,
                    error=chain(error),
                    exc_info=None if isinstance(error, MidgeError) else error,
                )
                if attempt == step.attempts:
                    raise
            await self._sleep(delay_s * (0.5 + random.random() / 2))
            delay_s = min(delay_s * BACKOFF_FACTOR, BACKOFF_MAX_S)
        raise AssertionError("unreachable: the last attempt returns or raises")
