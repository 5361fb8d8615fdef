"""settle: the process has ended by itself; give back what the run used. Its exit is recorded already."""

from __future__ import annotations

from midge.operations.model import Operation, Outcome
from midge.worker.events import event, failure
from midge.worker.operations.context import Context
from midge.worker.operations.finish import Aftermath, MachineOperation
from midge.worker.operations.journal import SettleInput
from midge.worker.operations.steps import CLEANUP
from midge.worker.record import changed


def finish(context: Context[SettleInput], outcome: Outcome, now_ns: int) -> Aftermath:
    if outcome.error is not None:
        machine = changed(context.machine, "failed", now_ns)
        return Aftermath(
            machine, "op_failed", [event("exit", "failed", "flyd", now_ns, failure(outcome.error))]
        )
    machine = changed(context.machine, "stopped", now_ns)
    machine.handle = None
    return Aftermath(machine)


OPERATION = MachineOperation("settle", Operation("settle", [CLEANUP]), finish)
