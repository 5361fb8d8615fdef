"""stop: signal, wait, kill, clear away. Of a suspended machine: drop the snapshot."""

from __future__ import annotations

from midge.operations.model import Operation, Outcome
from midge.worker.events import event, failure
from midge.worker.operations.context import Context
from midge.worker.operations.finish import Aftermath, Follow, MachineOperation, requested_exit
from midge.worker.operations.journal import StopInput
from midge.worker.operations.steps import CLEANUP, HALT
from midge.worker.record import Machine, changed
from midge.worker.requests import Asked


def follow(machine: Machine) -> Follow | None:
    return ("force_destroy", Asked(source="flyd")) if machine.config.auto_destroy else None


def finish(context: Context[StopInput], outcome: Outcome, now_ns: int) -> Aftermath:
    if outcome.error is not None:
        machine = changed(context.machine, "failed", now_ns)
        return Aftermath(
            machine, "op_failed", [event("stop", "failed", "flyd", now_ns, failure(outcome.error))]
        )
    machine = changed(context.machine, "stopped", now_ns)
    machine.handle = None
    machine.snapshot = None
    machine.retries_s = ()
    events = requested_exit(context, machine, now_ns)
    if not events:
        events = [event("stop", "stopped", "flyd", now_ns)]
    return Aftermath(machine, events=events, follow=follow(machine))


OPERATION = MachineOperation("stop", Operation("stop", [HALT, CLEANUP]), finish)
