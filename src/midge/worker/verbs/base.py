"""What the verbs share: the context of a run, its result, and the steps that several of them have."""

from __future__ import annotations

import asyncio
import copy
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from midge.drivers.base import Handle
from midge.errors import DriverError, NotRunning, SnapshotUnusable, chain
from midge.lifecycle.states import OperationKind, Request, State
from midge.machine.normalise import stop_timeout_s
from midge.machine.spec import ExitStatus, MachineSpec
from midge.operations.model import Operation, Outcome, Run, Step
from midge.worker.events import exit_event
from midge.worker.host import EventView
from midge.worker.parts import ImageResult, Parts
from midge.worker.record import Machine
from midge.worker.spec_builder import build_spec
from midge.worker.trace import PhaseTrace, Traced

KILL_TIMEOUT_S = 10.0  # from SIGKILL of a VMM or container until it must be gone
STOP_SIGNAL_DEFAULT = "SIGINT"

_log = structlog.get_logger("midge.worker")


# A request that the worker makes by itself, with its parameters.
Follow = tuple[Request, dict[str, Any]]


@dataclass(slots=True)
class Context:
    """One run of a verb.

    Attributes:
        machine: as it was when the run began; never changed here.
        exit: the driver's report, when the process had ended before the run came to look.
        kept: what runs after a suspend that failed; None if nothing does.
    """

    parts: Parts
    machine: Machine
    run: Run
    trace: PhaseTrace
    exit: ExitStatus | None = None
    kept: Handle | None = None

    def spec(self, machine: Machine | None = None) -> MachineSpec:
        target = machine or self.machine
        start_id = self.run.input.get("start_id", self.run.id)
        return build_spec(target, start_id, self.parts.log_file(target.id))

    def output(self, step: str) -> Any:
        return self.run.outputs.get(step)


@dataclass(slots=True)
class Finish:
    """The machine after a run.

    Attributes:
        event: how the run ended, in the words of the table.
        machine: the changed copy, in its resting state.
        follow: a request the worker makes by itself next, with its parameters.
        forget_version: a version that never came to life and leaves no trace.
    """

    machine: Machine
    event: str = "op_done"
    events: list[EventView] = field(default_factory=list)
    follow: Follow | None = None
    forget_version: str = ""


@dataclass(frozen=True, slots=True)
class Verb:
    """`operation` does it, `finish` says what follows. `finish` is pure."""

    kind: OperationKind
    operation: Operation[Context]
    finish: Callable[[Context, Outcome, int], Finish]


def changed(machine: Machine, state: State, now_ns: int) -> Machine:
    """A copy in another state. Machines in the catalog are never changed in place."""
    copied = copy.copy(machine)
    copied.move(state)
    copied.updated_at_ns = now_ns
    copied.seq = machine.seq + 1
    return copied


def touched(machine: Machine, now_ns: int) -> Machine:
    """A copy in the same state, for a change of its record or a new event."""
    copied = changed(machine, machine.state, now_ns)
    copied.story = machine.story
    return copied


def merged(before: Machine, now: Machine) -> Machine:
    """A run's machine with what changed beside the run: metadata, lease, cordon. No run changes these."""
    copied = changed(before, now.state, now.updated_at_ns)
    copied.seq = now.seq
    copied.config_json, copied.lease, copied.cordoned = now.config_json, now.lease, now.cordoned
    return copied


def count(context: Context, *, ok: bool) -> None:
    """Keeps an ended run for the metrics; not one that an earlier worker began: who knows when that was asked for."""
    run, trace = context.run, context.trace
    if run.resumed:
        return
    resumed = run.kind == "start" and (context.output("launch") or {}).get("resumed", False)
    kind = "resume" if resumed else run.kind
    context.parts.traces.add(Traced(kind, ok, trace.elapsed_ms(), trace.phases))


def exit_of(context: Context) -> ExitStatus | None:
    """The exit that the step `halt` saw."""
    data = context.output("halt")
    return msgspec.convert(data["exit"], ExitStatus) if data and data.get("exit") else None


def requested_exit(context: Context, machine: Machine, now_ns: int) -> list[EventView]:
    """The `exit` event after a stop that somebody asked for."""
    status = exit_of(context)
    if status is None:
        return []
    return [
        exit_event(
            status, requested=True, restarting=False, restart_count=len(machine.retries_s), now_ns=now_ns
        )
    ]


# ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def halt(context: Context) -> dict[str, Any]:
    """Asks the process to end, then makes it. Returns its exit; none when nothing ran."""
    machine, driver = context.machine, context.parts.driver
    if machine.snapshot is not None:
        await driver.discard_snapshot(machine.id, machine.snapshot)
    if machine.handle is None:
        return {"exit": None}
    if context.exit is None:
        try:
            context.exit = await _signal_and_wait(context, machine.handle)
        except NotRunning:  # an operation before this one got as far as `cleanup`, and then failed
            return {"exit": None}
    context.trace.mark("exit")
    return {"exit": msgspec.to_builtins(context.exit)}


async def _signal_and_wait(context: Context, handle: Handle) -> ExitStatus:
    driver, config = context.parts.driver, context.machine.config
    stop = config.stop_config
    name = context.run.input.get("signal") or (stop.signal if stop else None) or STOP_SIGNAL_DEFAULT
    timeout_s = context.run.input.get("timeout_s") or stop_timeout_s(config)
    if context.run.input.get("force"):
        timeout_s = 0.0
    try:
        async with asyncio.timeout(timeout_s):
            await driver.signal(handle, signal.Signals[name])
            return await driver.wait(handle)
    except TimeoutError:
        pass
    context.trace.mark("grace")
    return await kill_and_wait(context, handle)


async def kill_and_wait(context: Context, handle: Handle) -> ExitStatus:
    driver = context.parts.driver
    await driver.kill(handle)
    try:
        async with asyncio.timeout(KILL_TIMEOUT_S):
            return await driver.wait(handle)
    except TimeoutError as error:
        raise DriverError(f"machine {handle.machine_id} was killed and is still there") from error


async def cleanup(context: Context) -> None:
    await context.parts.driver.cleanup(context.machine.id, context.machine.handle)
    context.trace.mark("cleanup")


async def fetch_image(context: Context) -> dict[str, Any]:
    """Brings the image here; its digest was fixed when the request came."""
    result = await context.parts.images.fetch(context.machine.image_ref)
    context.trace.mark("image")
    built: dict[str, Any] = msgspec.to_builtins(result)
    return built


def with_image(context: Context, machine: Machine) -> Machine:
    """The machine with what the step `image` learned."""
    data = context.output("image")
    if data is None:
        return machine
    result = msgspec.convert(data, ImageResult)
    copied = copy.copy(machine)
    copied.image_ref = result.ref
    copied.image_process = result.process
    return copied


async def prepare(context: Context) -> None:
    """Makes everything a start takes for granted: the image's root filesystem, the log's folder."""
    context.parts.log_path(context.machine.id).parent.mkdir(parents=True, exist_ok=True)
    await context.parts.driver.prepare(context.spec(with_image(context, context.machine)))
    context.trace.mark("prepare")


async def launch(context: Context) -> dict[str, Any]:
    """Starts the machine cold, or resumes it where it has a snapshot. Returns handle and how."""
    parts = context.parts
    machine = with_image(context, context.machine)
    spec = context.spec(machine)
    note = ""
    # A step that is tried again has spent the time since on its first try, and on the pause.
    context.trace.mark("retry" if context.trace.has("journal") else "journal")
    # A run that halted the machine first has dropped its snapshot.
    snapshot = machine.snapshot if context.output("halt") is None else None
    try:
        handle = await _go_on(context, spec) if _was_being_suspended(context) else None
        if snapshot is not None and context.run.input.get("resume", True):
            handle = await parts.driver.resume(spec, snapshot, context.trace)
        if handle is not None:
            return {"handle": msgspec.to_builtins(handle), "resumed": True, "note": ""}
    except SnapshotUnusable as error:
        note = f"cold start: {chain(error)}"
        _log.warning("snapshot unusable", machine=machine.id, error=chain(error))
        await parts.driver.discard_snapshot(machine.id, snapshot or {})
        await parts.driver.cleanup(machine.id, None)
    handle = await parts.driver.start(spec, context.trace)
    return {"handle": msgspec.to_builtins(handle), "resumed": False, "note": note}


def _was_being_suspended(context: Context) -> bool:
    return context.run.input.get("superseded") == "suspend"


async def _go_on(context: Context, spec: MachineSpec) -> Handle | None:
    """A start that came during a suspend keeps the machine where it is."""
    if context.machine.handle is None:
        return None
    return await context.parts.driver.go_on(spec, context.machine.handle, context.trace)


async def undo_launch(context: Context, error: BaseException | None) -> None:
    """After a start that did not come up nothing of it may be left."""
    if error is not None:
        await context.parts.driver.cleanup(context.machine.id, context.machine.handle)


def launched(context: Context, machine: Machine, now_ns: int) -> tuple[Machine, dict[str, Any]]:
    """The started machine, and what its `start` event says."""
    data = context.output("launch")
    started = changed(with_image(context, machine), "started", now_ns)
    started.handle = msgspec.convert(data["handle"], Handle)
    started.snapshot = None
    request: dict[str, Any] = {"resumed": data["resumed"]}
    if data["note"]:
        request["note"] = data["note"]
    return started, request


HALT = Step("halt", halt)
CLEANUP = Step("cleanup", cleanup)
IMAGE = Step("image", fetch_image, attempts=3)
PREPARE = Step("prepare", prepare, attempts=2)
LAUNCH = Step("launch", launch, attempts=2)
