"""The one task that changes a machine.

```
   requests (api, proxy, policy) ──► ┌───────┐                        ┌─► begin(run) ──► operation (child task)
   reports (guest exit, run ended) ─►│ inbox │── reports first ─► turn ┤                      │ outcome
                    ▲                └───────┘   (pure: midge.worker.turn) └─► finish(run)    │
                    └─────────────────────────────────────────────────────────────────────────┘
```

What a message leads to is decided by `turn.decide_turn`; the owner carries it out: each change is one durable write,
then published.

An owner exists while its machine runs, has an operation under way, or has messages waiting; a machine at rest has
none. What is in memory follows what is on disk: a change is written first, and only then seen by others. A change
that cannot be written did not happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from midge.errors import MidgeError, Unavailable, chain
from midge.lifecycle.states import Request, State
from midge.machine.spec import ExitStatus
from midge.operations.model import Run
from midge.worker.change import Change, commit, record_refusal
from midge.worker.edits import Edit
from midge.worker.inbox import Accepted, Ask, Call, CreateFailed, Ended, Exit, Inbox, Report, seen
from midge.worker.operations.finish import Follow, count
from midge.worker.parts import Parts
from midge.worker.record import Machine
from midge.worker.requests import Params
from midge.worker.runner import Runner
from midge.worker.trace import PhaseTrace, received_at
from midge.worker.turn import (
    Already,
    Begin,
    Finish,
    Joined,
    Keep,
    Situation,
    Waits,
    Write,
    decide_turn,
)
from midge.worker.watch import Watch

# A report that could not be written is repeated: after 1, 2, 4 … seconds, in all for about a quarter of an hour.
REPORT_RETRY_FIRST_S = 0.5
REPORT_RETRY_MAX_S = 60.0
REPORT_ATTEMPTS_MAX = 20

_log = structlog.get_logger("midge.worker")


class Owner:
    """See the module. Made by the worker; `run` is its task."""

    def __init__(self, machine_id: str, parts: Parts, retired: Callable[[Owner], None]) -> None:
        self.id = machine_id
        self.parts = parts
        self._retired = retired
        self._inbox = Inbox(machine_id)
        self._runner = Runner(machine_id, parts, self._inbox)
        self._watch = Watch(machine_id, parts.driver, self._inbox)
        self._early_exit: Exit | None = None
        self._adopted: tuple[Run | None, ExitStatus | None] | None = None
        self._reports_to_repeat = 0
        self.begun = False
        self.closed = False

    @property
    def machine(self) -> Machine:
        return self.parts.catalog.get(self.id)

    @property
    def _group(self) -> asyncio.TaskGroup:
        assert self._runner.tasks is not None, "only while `run` runs"
        return self._runner.tasks

    # ── what the worker calls ─────────────────────────────────────────────────────────────────────────────────

    def post(self, request: Request, params: Params, *, nonce: str = "") -> asyncio.Future[Accepted]:
        """Puts a request to the machine. The answer comes once it is accepted and durable, or says why not."""
        trace = PhaseTrace(received_at.get())
        message = Ask(request, params, nonce, asyncio.get_running_loop().create_future(), trace=trace)
        self._inbox.post(message)
        return message.answer

    def post_internal(self, request: Request, params: Params) -> None:
        """What follows from what has happened, before anybody else's requests; no lease stands against it."""
        answer: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(seen)
        self._inbox.post_first(Ask(request, params, "", answer, internal=True))

    def post_call(self, edit: Edit) -> asyncio.Future[Machine]:
        """A change of the machine's record, in its turn. Answered with the machine after it, once that is durable."""
        message = Call(edit, asyncio.get_running_loop().create_future())
        self._inbox.post(message)
        return message.answer

    def take_up(self, run: Run | None, known_exit: ExitStatus | None) -> None:
        """Before `run`: what an earlier worker left, the run under way or the process that runs (or has ended)."""
        self._adopted = (run, known_exit)

    def post_create_failed(self) -> None:
        """What an earlier worker left is a create that failed, whose removal has not begun."""
        self._inbox.report(CreateFailed())

    # ── the task ──────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Handles messages until the machine is at rest and nobody wants anything."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._runner.tasks = tasks
                self._adopt()
                while not self._idle():
                    message = await self._inbox.get()
                    if message is None:
                        continue
                    if isinstance(message, Ended | Exit | CreateFailed):
                        await self._handle_report(message)
                    else:
                        await self._handle(message)
                self._retire()
        finally:
            self._retire()
            gone = Unavailable(f"machine {self.id}: midge is shutting down", hint="try again")
            self._inbox.refuse_all(gone)
            self._runner.end(gone)

    def _retire(self) -> None:
        self.closed = True
        self._retired(self)

    def _adopt(self) -> None:
        if self._adopted is None:
            return
        run, known_exit = self._adopted
        handle = self.machine.handle
        if run is not None:
            if handle is not None and known_exit is not None:
                # In case the run leads back to `started`: nothing runs any more.
                self._early_exit = Exit(handle.start_id, known_exit)
            self._runner.execute(run, known_exit)
        elif handle is not None and known_exit is not None:
            self._inbox.report(Exit(handle.start_id, known_exit))
        elif handle is not None:
            self._watch.begin(self._group, handle)

    def _idle(self) -> bool:
        return not (self._runner.current or self._watch.active or len(self._inbox) or self._reports_to_repeat)

    async def _handle(self, message: Ask | Call) -> None:
        try:
            if isinstance(message, Call):
                result: Any = await self._edit(message)
            else:
                result = await self._request(message)
                if result is None:
                    return
        except Exception as error:
            if not isinstance(error, MidgeError):
                _log.error("request failed", machine=self.id, error=chain(error), exc_info=error)
            if isinstance(message, Ask) and message.internal:
                await record_refusal(self.parts, self.machine, message.request, error)
            if not message.answer.done():
                message.answer.set_exception(error)
            return
        if not message.answer.done():
            message.answer.set_result(result)

    async def _request(self, ask: Ask) -> Accepted | None:
        """None: it waits, and is answered later."""
        if not ask.internal:
            ask.trace.mark("waited" if ask.trace.phases else "api")
        previous = self.machine.state
        match decide_turn(self._situation(), ask):
            case Begin() as begin:
                ask.trace.mark("admission")
                return Accepted(previous, await self._runner.begin(begin, ask.trace))
            case Already():
                return Accepted(previous, None)
            case Joined():
                current = self._runner.current
                return Accepted(previous, current.done if current else None)
            case Waits():
                self._inbox.put_aside(ask)
                return None
            case other:
                raise AssertionError(f"{other} does not answer a request")

    async def _edit(self, call: Call) -> Machine:
        match decide_turn(self._situation(), call):
            case Write(machine, change):
                if change is not None:
                    await self.commit(change)
                return machine
            case other:
                raise AssertionError(f"{other} does not answer a change of the record")

    def _situation(self) -> Situation:
        current, parts = self._runner.current, self.parts
        running = current.context.run if current is not None else None
        suspends = parts.driver.capabilities.suspend != "none"
        return Situation(self.machine, running, parts.clock.now_ns(), parts.free_mb(), suspends)

    # ── reports ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _handle_report(self, report: Report) -> None:
        try:
            match decide_turn(self._situation(), report):
                case Finish() as finish if isinstance(report, Ended):
                    await self._finish(report, finish)
                case Begin() as begin:
                    await self._runner.begin(begin)
                case Keep() if isinstance(report, Exit):
                    self._early_exit = report
        except Exception as error:
            _log.error(
                "report failed",
                machine=self.id,
                attempt=report.attempts,
                error=chain(error),
                exc_info=None if isinstance(error, MidgeError) else error,
            )
            report.attempts += 1
            if report.attempts < REPORT_ATTEMPTS_MAX:
                # What has happened stays true: most likely the disk is full, and room will be made.
                self._reports_to_repeat += 1
                self._group.create_task(self._repeat(report), name=f"repeat a report {self.id}")
            elif isinstance(report, Ended) and self._runner.is_current(report):
                # The journal still says `running`: the next start of the worker takes it up again.
                self._runner.end(error)

    async def _repeat(self, report: Report) -> None:
        await asyncio.sleep(min(REPORT_RETRY_FIRST_S * 2.0**report.attempts, REPORT_RETRY_MAX_S))
        self._reports_to_repeat -= 1
        self._inbox.report(report)

    async def _finish(self, report: Ended, finish: Finish) -> None:
        await self.commit(finish.change)
        count(report.context, ok=report.outcome.ok)
        self._runner.end(report.outcome.error)
        self._after(finish.state, finish.follow)

    def _after(self, state: State, follow: Follow | None) -> None:
        machine = self.machine
        if state == "launch_failed":
            # As a report, so that it is repeated where it cannot be written.
            self._inbox.report(CreateFailed())
            return
        if state == "started" and machine.handle is not None:
            early, self._early_exit = self._early_exit, None
            if early is not None and early.start_id == machine.handle.start_id:
                self._inbox.report(early)
            else:
                self._watch.begin(self._group, machine.handle)
        elif machine.handle is None:
            self._watch.end()
        if follow is not None:
            self.post_internal(*follow)
        self._inbox.bring_back()

    async def commit(self, change: Change) -> None:
        """Writes a change, then publishes the machine."""
        await commit(self.parts, change)
