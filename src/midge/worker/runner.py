"""The operation under way on a machine, of which there is never more than one.

```
 begin ──► intent on disk ──► task: the steps ──► Ended, into the owner's inbox ──► end
   └─ supersede: the one under way is cancelled first, and its end is part of the same write
```
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from midge.errors import Unavailable
from midge.ids import new_ulid
from midge.lifecycle.states import OperationKind, State
from midge.machine.spec import ExitStatus
from midge.operations.model import Run
from midge.worker.change import Change, commit
from midge.worker.events import EVENT_TYPES, event
from midge.worker.host import EventView
from midge.worker.inbox import Ended, Inbox, fail
from midge.worker.operations.context import Context
from midge.worker.operations.journal import Input
from midge.worker.operations.registry import OPERATIONS
from midge.worker.parts import Parts
from midge.worker.record import Machine, changed
from midge.worker.trace import PhaseTrace


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

    async def begin(
        self,
        kind: OperationKind,
        state: State,
        given: Input,
        *,
        events: list[EventView] | None = None,
        machine: Machine | None = None,
        supersede: bool = False,
        trace: PhaseTrace | None = None,
    ) -> asyncio.Future[None]:
        """Journals the intent, then starts the operation. `machine` is the changed copy if there is one already.

        When the intent cannot be written, the operation that was to be superseded goes on.
        """
        interrupted = await self._interrupt() if supersede else None
        try:
            trace = trace or PhaseTrace()
            run = await self._record(kind, state, given, events or [], machine, interrupted)
        except Exception:
            if interrupted is not None:
                self._go_on(interrupted)
            raise
        if interrupted is not None:
            old = interrupted.context.run.kind
            text = f"machine {self.id}: {old} was superseded by {kind}"
            fail(interrupted.done, Unavailable(text, hint="ask again if it is still wanted"))
        return self.execute(run, None, trace)

    async def _record(
        self,
        kind: OperationKind,
        state: State,
        given: Input,
        events: list[EventView],
        machine: Machine | None,
        interrupted: Current | None,
    ) -> Run:
        """The end of the superseded operation is in the same write: there is never one in between."""
        now_ns = self._parts.clock.now_ns()
        new = machine or changed(self._parts.catalog.get(self.id), state, now_ns)
        if interrupted is not None:
            old = interrupted.context.run.kind
            given = msgspec.structs.replace(given, superseded=old)
        run = Run(
            id=new_ulid(),
            subject=self.id,
            kind=kind,
            input=given,
            step=OPERATIONS[kind].operation.steps[0].name,
            started_at_ns=now_ns,
        )
        begun = event(EVENT_TYPES[kind], state, given.source, now_ns)
        quiet = kind == "settle"  # the exit event says it all
        ended = [_superseded(interrupted.context.run, now_ns)] if interrupted else []
        await commit(
            self._parts,
            Change(
                new,
                events=events if quiet else [*events, begun],
                runs=[*ended, run],
                whole=kind == "update",
            ),
        )
        return run

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


def _superseded(run: Run, now_ns: int) -> Run:
    return replace(run, state="superseded", finished_at_ns=now_ns)
