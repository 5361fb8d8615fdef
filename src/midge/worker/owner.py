"""The one task that changes a machine.

```
   requests (api, proxy, policy) ──► ┌───────┐   admission → table → begin(run) ─────► operation (child task)
   reports (guest exit, run ended) ─►│ inbox │── reports first ──► finish(run) ◄─────── outcome
                                     └───────┘   each change: one durable write, then published
```

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
from midge.lifecycle.admission import admit
from midge.lifecycle.states import Request, State
from midge.lifecycle.table import Join, Later, Next, Nothing, decide, settle
from midge.machine.spec import ExitStatus
from midge.operations.engine import error_as_data
from midge.operations.model import Run
from midge.worker import edits
from midge.worker.change import Change, commit, record_refusal
from midge.worker.edits import Edit
from midge.worker.exits import consequence
from midge.worker.inbox import Accepted, Ask, Call, CreateFailed, Ended, Exit, Inbox, Report, facts, seen
from midge.worker.operations import update
from midge.worker.operations.finish import Follow, count
from midge.worker.operations.journal import DestroyInput, Input
from midge.worker.operations.registry import OPERATIONS
from midge.worker.parts import Parts
from midge.worker.record import Machine, merged
from midge.worker.requests import NewVersion, Params, input_of
from midge.worker.runner import Runner
from midge.worker.trace import PhaseTrace, received_at
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
                result: Any = await self._edit(message.edit)
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
        machine, trace = self.machine, ask.trace
        if not ask.internal:
            trace.mark("waited" if trace.phases else "api")
        decision = admit(facts(ask, machine, self.parts))
        previous = machine.state
        match decision:
            case Nothing():
                return Accepted(previous, None)
            case Join():
                current = self._runner.current
                return Accepted(previous, current.done if current else None)
            case Later():
                self._inbox.put_aside(ask)
                return None
            case Next(state, run, supersede):
                assert run is not None
                trace.mark("admission")
                new: Machine | None = None
                given: Input
                if isinstance(ask.params, NewVersion):
                    new, given = update.begin(machine, ask.params, state, self.parts.clock.now_ns())
                else:
                    given = input_of(run, ask.params)
                done = await self._runner.begin(
                    run, state, given, machine=new, supersede=supersede, trace=trace
                )
                return Accepted(previous, done)
        raise AssertionError(f"{decision} does not answer a request")

    async def _edit(self, edit: Edit) -> Machine:
        machine = self.machine
        new, events = edits.apply(machine, edit, self.parts.clock.now_ns())
        if new is not machine:
            configured = new.config_json is not machine.config_json
            await self.commit(Change(new, events, whole=configured, replace_version_config=configured))
        return new

    # ── reports ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _handle_report(self, report: Report) -> None:
        try:
            match report:
                case Ended():
                    await self._ended(report)
                case Exit():
                    await self._exited(report)
                case CreateFailed():
                    await self._take_back()
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

    async def _ended(self, report: Ended) -> None:
        if not self._runner.is_current(report):
            return
        context, outcome, run = report.context, report.outcome, report.context.run
        now_ns = self.parts.clock.now_ns()
        if context.machine.seq != self.machine.seq:
            context.machine = merged(context.machine, self.machine)
        finish = OPERATIONS[run.kind].finish(context, outcome, now_ns)  # type: ignore[index]  # as above
        settled = self._settled(finish.machine.state, finish.event)
        run.step = ""
        run.state = "done" if outcome.ok else "failed"
        run.error = error_as_data(outcome.error) if outcome.error else None
        run.finished_at_ns = now_ns
        run.phases = context.trace.phases
        await self.commit(
            Change(
                finish.machine,
                events=finish.events,
                runs=[run],
                whole=run.kind in ("create", "update"),
                forget_version=finish.forget_version,
                replace_version_config=bool(
                    finish.forget_version
                ),  # its metadata may have been set meanwhile
            )
        )
        count(context, ok=outcome.ok)
        self._runner.end(outcome.error)
        await self._after(settled, finish.follow)

    def _settled(self, state: State, name: str) -> State:
        machine = self.machine
        following = decide(machine.state, name, machine.story)  # type: ignore[arg-type]  # op_done | op_failed
        if isinstance(following, Next):
            return state
        return settle(machine.state, state, name, machine.story)  # type: ignore[arg-type]  # as above

    async def _after(self, state: State, follow: Follow | None) -> None:
        machine = self.machine
        if state == "launch_failed":
            await self._take_back()
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

    async def _take_back(self) -> None:
        """Begins to remove what a create that failed has left."""
        await self._runner.begin("destroy", "launch_failed", DestroyInput(source="flyd", launch_failed=True))

    # ── exits ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _exited(self, report: Exit) -> None:
        machine = self.machine
        if machine.handle is None or machine.handle.start_id != report.start_id:
            return
        if machine.state != "started":
            # The operation under way waits for the exit itself, or goes back to `started` and then sees it.
            self._early_exit = report
            return
        after = consequence(machine, report.status, self.parts.clock.now_ns())
        await self._runner.begin(
            after.kind, after.machine.state, after.input, events=[after.event], machine=after.machine
        )
        assert self._runner.current is not None
        self._runner.current.context.exit = report.status

    async def commit(self, change: Change) -> None:
        """Writes a change, then publishes the machine."""
        await commit(self.parts, change)
