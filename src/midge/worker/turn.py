"""What a machine's owner decides on a message. Pure: the owner carries it out.

```
 (situation, message) ──► Already │ Joined │ Waits     a request that begins nothing
                          Begin                        write, then run an operation; first cancel the one under way
                          Write                        a change of the record
                          Finish                       the end of an operation, and what follows by itself
                          Keep │ Pass                  an exit that an operation will look at; old news
```

A refusal is an error that is raised, for whoever asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

import msgspec

from midge.ids import new_ulid
from midge.lifecycle.admission import Capacity, Facts, admit
from midge.lifecycle.states import OperationKind, State
from midge.lifecycle.table import Join, Later, Next, Nothing, decide, settle
from midge.machine.spec import ExitStatus
from midge.operations.engine import error_as_data
from midge.operations.model import Run
from midge.worker import edits
from midge.worker.change import Change
from midge.worker.events import EVENT_TYPES, event
from midge.worker.exits import consequence
from midge.worker.host import EventView
from midge.worker.inbox import Ask, Call, CreateFailed, Ended, Exit
from midge.worker.operations import update
from midge.worker.operations.finish import Follow
from midge.worker.operations.journal import DestroyInput, Input
from midge.worker.operations.registry import OPERATIONS
from midge.worker.record import Machine, changed, merged
from midge.worker.requests import NewVersion, input_of


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision may look at.

    Attributes:
        running: the operation under way.
        free_mb: memory the host can still promise, MiB; None: it need not count.
        suspends: the host's driver can suspend.
    """

    machine: Machine
    running: Run | None
    now_ns: int
    free_mb: int | None = None
    suspends: bool = True


@dataclass(frozen=True, slots=True)
class Already:
    """The machine is where the request wants it."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The operation under way does what is asked; its end is the answer."""


@dataclass(frozen=True, slots=True)
class Waits:
    """The request is heard again when the operation under way has ended."""


@dataclass(frozen=True, slots=True)
class Begin:
    """An operation begins once `change` is durable, which holds its run, and the end of the one it supersedes.

    Attributes:
        cancel: the operation under way is cancelled before anything is written; it goes on if that fails.
        exit: as in `Context.exit`.
    """

    run: Run
    change: Change
    cancel: bool = False
    exit: ExitStatus | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """A change of the record; None: it is as asked already."""

    machine: Machine
    change: Change | None


@dataclass(frozen=True, slots=True)
class Finish:
    """An operation has ended. `state` is where the machine settles; `follow` what it asks for by itself next."""

    change: Change
    state: State
    follow: Follow | None


@dataclass(frozen=True, slots=True)
class Keep:
    """The operation under way waits for the exit itself, or goes back to `started` and is then told of it."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Of a run that is long over."""


Message = Ask | Call | Ended | Exit | CreateFailed
Decision = Already | Joined | Waits | Begin | Write | Finish | Keep | Pass


def decide_turn(now: Situation, message: Message) -> Decision:
    """The decision on a message.

    Raises:
        MidgeError: the answer is no.
    """
    match message:
        case Ask():
            return _request(now, message)
        case Call():
            return _edit(now, message)
        case Ended():
            return _ended(now, message)
        case Exit():
            return _exited(now, message)
        case CreateFailed():
            return _take_back(now)
    assert_never(message)


def new_run(kind: OperationKind, machine_id: str, given: Input, now_ns: int) -> Run:
    """A run whose intent is to be written: of its first step."""
    first = OPERATIONS[kind].operation.steps[0].name
    return Run(id=new_ulid(), subject=machine_id, kind=kind, input=given, step=first, started_at_ns=now_ns)


def _take_back(now: Situation) -> Begin | Pass:
    """A create that failed: what it has left is removed."""
    if now.machine.state != "launch_failed" or now.running is not None:
        return Pass()
    machine = changed(now.machine, "launch_failed", now.now_ns)
    return _begin(now, "destroy", machine, DestroyInput(source="flyd", launch_failed=True))


def _begin(
    now: Situation,
    kind: OperationKind,
    machine: Machine,
    given: Input,
    *,
    events: tuple[EventView, ...] = (),
    supersede: bool = False,
    exit: ExitStatus | None = None,
) -> Begin:
    """The end of the superseded operation is in the same write: there is never one in between."""
    ended: list[Run] = []
    if supersede and now.running is not None:
        given = msgspec.structs.replace(given, superseded=now.running.kind)
        ended = [replace(now.running, state="superseded", finished_at_ns=now.now_ns)]
    run = new_run(kind, machine.id, given, now.now_ns)
    told = [*events]
    if kind != "settle":  # there the exit event says it all
        told.append(event(EVENT_TYPES[kind], machine.state, given.source, now.now_ns))
    change = Change(machine, events=told, runs=[*ended, run], whole=kind == "update")
    return Begin(run, change, cancel=bool(ended), exit=exit)


def _request(now: Situation, ask: Ask) -> Decision:
    machine = now.machine
    match admit(_facts(now, ask)):
        case Nothing():
            return Already()
        case Join():
            return Joined()
        case Later():
            return Waits()
        case Next(state, kind, supersede) if kind is not None:
            if isinstance(ask.params, NewVersion):
                new, given = update.begin(machine, ask.params, state, now.now_ns)
                return _begin(now, kind, new, given, supersede=supersede)
            new = changed(machine, state, now.now_ns)
            return _begin(now, kind, new, input_of(kind, ask.params), supersede=supersede)
        case other:
            raise AssertionError(f"{other} does not answer a request")


def _facts(now: Situation, ask: Ask) -> Facts:
    """What admission may look at. No lease stands against what follows from the machine's own fate."""
    machine = now.machine
    return Facts(
        machine_id=machine.id,
        state=machine.state,
        request=ask.request,
        now_ns=now.now_ns,
        nonce=ask.nonce,
        lease=None if ask.internal else machine.lease,
        memory_mb=machine.memory_mb,
        new_memory_mb=ask.params.launch_memory_mb if isinstance(ask.params, NewVersion) else 0,
        capacity=Capacity(now.free_mb),
        suspends=now.suspends,
        story=machine.story,
    )


def _edit(now: Situation, call: Call) -> Write:
    new, events = edits.apply(now.machine, call.edit, now.now_ns)
    if new is now.machine:
        return Write(new, None)
    configured = new.config_json is not now.machine.config_json
    return Write(new, Change(new, events, whole=configured, replace_version_config=configured))


def _ended(now: Situation, report: Ended) -> Finish | Pass:
    context, outcome, run = report.context, report.outcome, report.context.run
    if run is not now.running:
        return Pass()
    machine = now.machine
    if context.machine.seq != machine.seq:
        context = replace(context, machine=merged(context.machine, machine))
    finish = OPERATIONS[run.kind].finish(context, outcome, now.now_ns)  # type: ignore[index]  # an OperationKind
    ended = replace(
        run,
        step="",
        state="done" if outcome.ok else "failed",
        error=error_as_data(outcome.error) if outcome.error else None,
        finished_at_ns=now.now_ns,
        phases=context.trace.phases,
    )
    state = finish.machine.state
    following = decide(machine.state, finish.event, machine.story)  # type: ignore[arg-type]  # op_done | op_failed
    if not isinstance(following, Next):
        state = settle(machine.state, state, finish.event, machine.story)  # type: ignore[arg-type]  # as above
    change = Change(
        finish.machine,
        events=finish.events,
        runs=[ended],
        whole=run.kind in ("create", "update"),
        forget_version=finish.forget_version,
        replace_version_config=bool(finish.forget_version),  # its metadata may have been set meanwhile
    )
    return Finish(change, state, finish.follow)


def _exited(now: Situation, report: Exit) -> Begin | Keep | Pass:
    machine = now.machine
    if machine.handle is None or machine.handle.start_id != report.start_id:
        return Pass()
    if machine.state != "started":
        return Keep()
    after = consequence(machine, report.status, now.now_ns)
    return _begin(now, after.kind, after.machine, after.input, events=(after.event,), exit=report.status)
