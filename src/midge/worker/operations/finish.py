"""How a run ends: the machine afterwards, its events, and what follows by itself. Pure, but for the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from midge.lifecycle.states import OperationKind, Request
from midge.operations.model import Operation, Outcome
from midge.worker.events import exit_event
from midge.worker.host import EventView
from midge.worker.operations.context import Context, with_image
from midge.worker.operations.journal import Halted, Launched, was_resumed
from midge.worker.record import Machine, changed
from midge.worker.requests import Params
from midge.worker.trace import Traced

# A request that the worker makes by itself, with its parameters.
Follow = tuple[Request, Params]


@dataclass(slots=True)
class Aftermath:
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
    operation: Operation[Context[Any]]
    finish: Callable[[Context[Any], Outcome, int], Aftermath]


def count(context: Context[Any], *, ok: bool) -> None:
    """Keeps an ended run for the metrics; not one that an earlier worker began: who knows when that was asked for."""
    run, trace = context.run, context.trace
    if run.resumed:
        return
    resumed = run.kind == "start" and was_resumed(run)
    kind = "resume" if resumed else run.kind
    context.parts.traces.add(Traced(kind, ok, trace.elapsed_ms(), trace.phases))


def requested_exit(context: Context[Any], machine: Machine, now_ns: int) -> list[EventView]:
    """The `exit` event after a stop that somebody asked for."""
    halted = context.output("halt", Halted)
    if halted is None or halted.exit is None:
        return []
    return [
        exit_event(
            halted.exit, requested=True, restarting=False, restart_count=len(machine.retries_s), now_ns=now_ns
        )
    ]


def launched(context: Context[Any], machine: Machine, now_ns: int) -> tuple[Machine, dict[str, Any]]:
    """The started machine, and what its `start` event says."""
    result = context.output("launch", Launched)
    assert result is not None, "the run has launched it"
    started = changed(with_image(context, machine), "started", now_ns)
    started.handle = result.handle
    started.snapshot = None
    request: dict[str, Any] = {"resumed": result.resumed}
    if result.note:
        request["note"] = result.note
    return started, request
