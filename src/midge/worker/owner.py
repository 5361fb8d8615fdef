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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from midge.errors import MidgeError, Unavailable, chain
from midge.ids import new_ulid
from midge.lifecycle.admission import Capacity, Facts, admit
from midge.lifecycle.restart import WINDOW_S, after_exit
from midge.lifecycle.states import OperationKind, Request, State
from midge.lifecycle.table import Join, Later, Next, Nothing, decide, settle
from midge.machine.spec import ExitStatus
from midge.operations.engine import error_as_data
from midge.operations.model import Outcome, Run
from midge.worker import table
from midge.worker.change import Change, commit
from midge.worker.events import EVENT_TYPES, event, exit_event
from midge.worker.host import EventView
from midge.worker.inbox import Accepted, Ask, Call, Ended, Exit, Inbox
from midge.worker.parts import Parts
from midge.worker.record import Machine
from midge.worker.verbs import VERBS
from midge.worker.verbs.base import Context, PhaseTrace, changed
from midge.worker.watch import Watch

_log = structlog.get_logger("midge.worker")


@dataclass(slots=True)
class _Current:
    context: Context
    task: asyncio.Task[None]
    done: asyncio.Future[None]


class Owner:
    """See the module. Made by the worker; `run` is its task."""

    def __init__(self, machine_id: str, parts: Parts, retired: Callable[[Owner], None]) -> None:
        self.id = machine_id
        self.parts = parts
        self._retired = retired
        self._inbox = Inbox(machine_id)
        self._current: _Current | None = None
        self._watch = Watch(machine_id, parts.driver, self._inbox)
        self._early_exit: Exit | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._adopted: tuple[Run | None, ExitStatus | None] | None = None
        self.begun = False
        self.closed = False

    @property
    def machine(self) -> Machine:
        return self.parts.catalog.get(self.id)

    @property
    def _group(self) -> asyncio.TaskGroup:
        assert self._tasks is not None, "only while `run` runs"
        return self._tasks

    # ── what the worker calls ─────────────────────────────────────────────────────────────────────────────────

    def post(self, request: Request, params: dict[str, Any], *, nonce: str = "") -> asyncio.Future[Accepted]:
        """Puts a request to the machine. The answer comes once it is accepted and durable, or says why not."""
        message = Ask(request, params, nonce, asyncio.get_running_loop().create_future())
        self._inbox.post(message)
        return message.answer

    def post_call(self, action: Callable[[Owner], Awaitable[Any]]) -> asyncio.Future[Any]:
        """A short change of the machine's record, in its turn."""
        message = Call(action, asyncio.get_running_loop().create_future())
        self._inbox.post(message)
        return message.answer

    def take_up(self, run: Run | None, known_exit: ExitStatus | None) -> None:
        """Before `run`: what an earlier worker left, the run under way or the process that runs (or has ended)."""
        self._adopted = (run, known_exit)

    # ── the task ──────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Handles messages until the machine is at rest and nobody wants anything."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._adopt()
                while not self._idle():
                    message = await self._inbox.get()
                    if message is None:
                        continue
                    if isinstance(message, Ended | Exit):
                        await self._handle_report(message)
                    else:
                        await self._handle(message)
                self._retire()
        finally:
            self._retire()
            gone = Unavailable(f"machine {self.id}: midge is shutting down", hint="try again")
            self._inbox.refuse_all(gone)
            if self._current is not None:
                _fail(self._current.done, gone)

    def _retire(self) -> None:
        self.closed = True
        self._retired(self)

    def _adopt(self) -> None:
        run, known_exit = self._adopted or (None, None)
        handle = self.machine.handle
        if run is not None:
            self._execute(run, known_exit)
        elif self._adopted and handle is not None and known_exit is not None:
            self._inbox.report(Exit(handle.start_id, known_exit))
        elif self._adopted and handle is not None:
            self._watch.begin(self._group, handle)

    def _idle(self) -> bool:
        return not (self._current or self._watch.active or len(self._inbox))

    async def _handle(self, message: Ask | Call) -> None:
        try:
            if isinstance(message, Call):
                result: Any = await message.action(self)
            else:
                result = await self._request(message)
                if result is None:
                    return
        except Exception as error:
            if not isinstance(error, MidgeError):
                _log.error("request failed", machine=self.id, error=chain(error), exc_info=error)
            if not message.answer.done():
                message.answer.set_exception(error)
            return
        if not message.answer.done():
            message.answer.set_result(result)

    async def _request(self, ask: Ask) -> Accepted | None:
        machine = self.machine
        decision = admit(self._facts(ask, machine))
        previous = machine.state
        match decision:
            case Nothing():
                return Accepted(previous, None)
            case Join():
                return Accepted(previous, self._current.done if self._current else None)
            case Later():
                self._inbox.put_aside(ask)
                return None
            case Next(state, run, supersede):
                assert run is not None
                if supersede:
                    await self._supersede()
                done = await self._begin(run, state, ask.request, ask.params)
                return Accepted(previous, done)
        raise AssertionError(f"{decision} does not answer a request")

    def _facts(self, ask: Ask, machine: Machine) -> Facts:
        parts = self.parts
        free_mb = None
        if parts.settings.memory_total_mb is not None:
            promised = int(parts.settings.memory_total_mb * parts.settings.memory_overcommit)
            free_mb = promised - parts.catalog.reserved_mb
        return Facts(
            machine_id=machine.id,
            state=machine.state,
            request=ask.request,
            now_ns=parts.clock.now_ns(),
            nonce=ask.nonce,
            lease=None if ask.internal else machine.lease,
            memory_mb=machine.memory_mb,
            capacity=Capacity(free_mb),
            story=tuple(machine.story),
        )

    # ── operations ────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin(
        self,
        kind: OperationKind,
        state: State,
        why: str,
        params: dict[str, Any],
        *,
        events: list[EventView] | None = None,
        machine: Machine | None = None,
    ) -> asyncio.Future[None]:
        """Journals the intent, then starts the operation. `machine` is the changed copy if there is one already."""
        now_ns = self.parts.clock.now_ns()
        trace = PhaseTrace()
        new = machine or changed(self.machine, state, now_ns)
        change = params.pop("change", None)
        if change is not None:
            change(new)
        run = Run(
            id=new_ulid(),
            subject=self.id,
            kind=kind,
            input=params,
            step=VERBS[kind].operation.names()[0],
            started_at_ns=now_ns,
        )
        if kind in ("start", "restart", "update"):
            run.input.setdefault("start_id", run.id)
        begun = event(EVENT_TYPES[kind], state, params.get("source", "user"), now_ns)
        quiet = kind == "settle"  # the exit event says it all
        await self.commit(
            Change(
                new,
                events=[*(events or []), *([] if quiet else [begun])],
                runs=[run],
                whole=change is not None,
            )
        )
        return self._execute(run, None, trace)

    def _execute(
        self, run: Run, known_exit: ExitStatus | None, trace: PhaseTrace | None = None
    ) -> asyncio.Future[None]:
        context = Context(self.parts, self.machine, run, trace or PhaseTrace(), known_exit)
        verb = VERBS[run.kind]  # type: ignore[index]  # journalled kinds are OperationKind

        async def body() -> None:
            outcome = await self.parts.engine.execute(verb.operation, run, context)
            self._inbox.report(Ended(context, outcome))

        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._group.create_task(body(), name=f"{run.kind} {self.id}")
        self._current = _Current(context, task, done)
        return done

    async def _supersede(self) -> None:
        """Cancels the operation under way. The one that follows begins with what it left."""
        current, self._current = self._current, None
        if current is None:
            return
        current.task.cancel()
        await asyncio.wait([current.task])
        self._inbox.drop_reports(current.context)
        run = current.context.run
        run.state, run.finished_at_ns = "superseded", self.parts.clock.now_ns()
        columns = table.run_columns(run)
        await self.parts.database.write(lambda connection: table.put_run(connection, columns))
        _fail(current.done, Unavailable(f"machine {self.id}: {run.kind} was superseded by another request"))

    async def _handle_report(self, report: Ended | Exit) -> None:
        try:
            if isinstance(report, Ended):
                await self._ended(report)
            else:
                await self._exited(report)
        except Exception as error:
            # The journal still says `running`: the next start of the worker takes it up again.
            _log.error("report failed", machine=self.id, error=chain(error), exc_info=error)
            if isinstance(report, Ended) and self._current is not None:
                _fail(self._current.done, error)
                self._current = None

    async def _ended(self, report: Ended) -> None:
        current = self._current
        if current is None or current.context is not report.context:
            return
        context, outcome, run = report.context, report.outcome, report.context.run
        now_ns = self.parts.clock.now_ns()
        if context.machine.seq != self.machine.seq:
            context.machine = self._merge(context.machine)
        finish = VERBS[run.kind].finish(context, outcome, now_ns)  # type: ignore[index]  # as above
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
            )
        )
        self._current = None
        if outcome.error is not None:
            _fail(current.done, outcome.error)
        elif not current.done.done():
            current.done.set_result(None)
        await self._after(settled, finish.follow, outcome)

    def _settled(self, state: State, name: str) -> State:
        machine = self.machine
        following = decide(machine.state, name, machine.story)  # type: ignore[arg-type]  # op_done | op_failed
        if isinstance(following, Next):
            return state
        return settle(machine.state, state, name, machine.story)  # type: ignore[arg-type]  # as above

    def _merge(self, before: Machine) -> Machine:
        """The run's machine with what changed beside it: metadata, lease, cordon. The run changes none of these."""
        now = self.machine
        merged = changed(before, now.state, now.updated_at_ns)
        merged.seq = now.seq
        merged.config_json, merged.lease, merged.cordoned = now.config_json, now.lease, now.cordoned
        return merged

    async def _after(
        self, state: State, follow: tuple[Request, dict[str, Any]] | None, outcome: Outcome
    ) -> None:
        machine = self.machine
        if state == "launch_failed":
            await self._begin(
                "destroy", "launch_failed", "op_failed", {"source": "flyd", "launch_failed": True}
            )
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
            answer: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(_note_refusal)
            self._inbox.post_first(Ask(follow[0], follow[1], "", answer, internal=True))
        self._inbox.bring_back()

    # ── exits ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _exited(self, report: Exit) -> None:
        machine = self.machine
        if machine.handle is None or machine.handle.start_id != report.start_id:
            return
        if machine.state != "started":
            # The operation under way waits for the exit itself, or goes back to `started` and then sees it.
            self._early_exit = report
            return
        now_ns = self.parts.clock.now_ns()
        now_s = now_ns / 1e9
        verdict = after_exit(
            machine.config, report.status, requested=False, retries_s=machine.retries_s, now_s=now_s
        )
        restarting = verdict.then == "restart"
        following = decide(machine.state, f"exited_{verdict.then}", machine.story)  # type: ignore[arg-type]  # a Report
        assert isinstance(following, Next) and following.run is not None
        new = changed(machine, following.state, now_ns)
        if restarting:
            new.retries_s = [at for at in machine.retries_s if now_s - at < WINDOW_S] + [now_s]
        left = exit_event(
            report.status,
            requested=False,
            restarting=restarting,
            restart_count=len(new.retries_s),
            now_ns=now_ns,
        )
        params: dict[str, Any] = {"source": "flyd", "exited": True}
        if restarting:
            params |= {"policy": True, "delay_s": verdict.delay_s}
        await self._begin(following.run, following.state, "exited", params, events=[left], machine=new)
        assert self._current is not None
        self._current.context.exit = report.status

    async def commit(self, change: Change) -> None:
        """Writes a change, then publishes the machine."""
        await commit(self.parts, change)


def _fail(done: asyncio.Future[None], error: BaseException) -> None:
    """Ends the wait for an operation. Nobody has to be waiting."""
    if not done.done():
        done.set_exception(error)
        done.exception()


def _note_refusal(future: asyncio.Future[Accepted]) -> None:
    if not future.cancelled() and future.exception() is not None:
        _log.warning("follow-up refused", error=str(future.exception()))
