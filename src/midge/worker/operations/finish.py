"""How a run ends: the machine afterwards, its events, and what follows by itself. Pure, but for the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from midge.drivers.base import Handle
from midge.lifecycle.states import OperationKind, Request
from midge.machine.spec import ExitStatus
from midge.operations.model import Operation, Outcome
from midge.worker.events import exit_event
from midge.worker.host import EventView
from midge.worker.operations.context import Context, with_image
from midge.worker.record import Machine, changed
from midge.worker.trace import Traced

# A request that the worker makes by itself, with its parameters.
Follow = tuple[Request, dict[str, Any]]


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
class MachineOperation:
    """`operation` does it, `finish` says what follows. `finish` is pure."""

    kind: OperationKind
    operation: Operation[Context]
    finish: Callable[[Context, Outcome, int], Finish]


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
