"""start: from a resting state to a running process, cold or from a snapshot."""

from __future__ import annotations

from midge.operations.model import Operation, Outcome
from midge.worker.events import event, failure
from midge.worker.operations.context import Context
from midge.worker.operations.finish import Aftermath, MachineOperation, launched
from midge.worker.operations.journal import StartInput
from midge.worker.operations.steps import LAUNCH, undo_launch
from midge.worker.record import changed


def finish(context: Context[StartInput], outcome: Outcome, now_ns: int) -> Aftermath:
    if outcome.error is not None:
        machine = changed(context.machine, "failed", now_ns)
        machine.handle = None
        return Aftermath(
            machine, "op_failed", [event("start", "failed", "flyd", now_ns, failure(outcome.error))]
        )
    machine, request = launched(context, context.machine, now_ns)
    return Aftermath(machine, events=[event("start", "started", "flyd", now_ns, request)])


OPERATION = MachineOperation("start", Operation("start", [LAUNCH], finalise=undo_launch), finish)
