"""The operation under way on a machine, of which there is never more than one.

```
 begin ──► intent on disk ──► task: the steps ──► Ended, into the owner's inbox ──► end
   └─ supersede: the one under way is cancelled first, and its end is part of the same write
```
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from midge.errors import Unavailable
from midge.machine.spec import ExitStatus
from midge.operations.model import Run
from midge.worker.change import commit
from midge.worker.inbox import Ended, Inbox, fail
from midge.worker.operations.context import Context
from midge.worker.operations.registry import OPERATIONS
from midge.worker.parts import Parts
from midge.worker.trace import PhaseTrace
from midge.worker.turn import Begin


@dataclass(slots=True)
class Current:
    """The operation under way. `done` resolves when it has ended, and its end is durable."""

    context: Context[Any]
    task: asyncio.Task[None]
    done: asyncio.Future[None]


class Runner:
    """Begins, supersedes, and takes up again. What follows from an operation's end is the owner's business.

    Attributes:
        tasks: the owner's, which join the steps; set for as long as the owner runs.
    """

    def __init__(self, machine_id: str, parts: Parts, inbox: Inbox) -> None:
        self.id = machine_id
        self.current: Current | None = None
        self.tasks: asyncio.TaskGroup | None = None
        self._parts = parts
        self._inbox = inbox

    def is_current(self, report: Ended) -> bool:
        return self.current is not None and self.current.context is report.context

    async def begin(self, decided: Begin, trace: PhaseTrace | None = None) -> asyncio.Future[None]:
        """Journals the intent, then starts the operation.

        When the intent cannot be written, the operation that was to be superseded goes on.
        """
        interrupted = await self._interrupt() if decided.cancel else None
        try:
            await commit(self._parts, decided.change)
        except Exception:
            if interrupted is not None:
                self._go_on(interrupted)
            raise
        if interrupted is not None:
            old, kind = interrupted.context.run.kind, decided.run.kind
            text = f"machine {self.id}: {old} was superseded by {kind}"
            fail(interrupted.done, Unavailable(text, hint="ask again if it is still wanted"))
        return self.execute(decided.run, decided.exit, trace)

    def execute(
        self, run: Run, known_exit: ExitStatus | None, trace: PhaseTrace | None = None
    ) -> asyncio.Future[None]:
        """Runs the steps of a run whose intent is durable; `known_exit` as in `Context.exit`."""
        machine = self._parts.catalog.get(self.id)
        context: Context[Any] = Context(self._parts, machine, run, trace or PhaseTrace(), known_exit)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.current = Current(context, self._run_steps(context), done)
        return done

    def end(self, error: BaseException | None) -> None:
        """It has ended, and whoever waits for it is told how."""
        current, self.current = self.current, None
        if current is None:
            return
        if error is not None:
            fail(current.done, error)
        elif not current.done.done():
            current.done.set_result(None)

    def _run_steps(self, context: Context[Any]) -> asyncio.Task[None]:
        run = context.run
        verb = OPERATIONS[run.kind]  # type: ignore[index]  # journalled kinds are OperationKind

        async def body() -> None:
            outcome = await self._parts.engine.execute(verb.operation, run, context)
            self._inbox.report(Ended(context, outcome))

        assert self.tasks is not None, "only while the owner runs"
        return self.tasks.create_task(body(), name=f"{run.kind} {self.id}")

    async def _interrupt(self) -> Current | None:
        """Cancels the operation under way and returns it. The one that follows begins with what it left."""
        current, self.current = self.current, None
        if current is None:
            return None
        current.task.cancel()
        await asyncio.wait([current.task])
        self._inbox.drop_reports(current.context)
        return current

    def _go_on(self, interrupted: Current) -> None:
        """Goes on with an operation that was cancelled for one that did not begin; its steps bear being repeated."""
        interrupted.task = self._run_steps(interrupted.context)
        self.current = interrupted
