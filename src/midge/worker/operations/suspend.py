"""suspend: save the machine's state and free what it used. When that fails the machine runs on."""

from __future__ import annotations

from typing import Any

from midge.errors import DriverError, SnapshotUnusable
from midge.operations.model import Operation, Outcome, Step
from midge.worker.events import event, failure
from midge.worker.operations.context import Context
from midge.worker.operations.finish import Aftermath, MachineOperation
from midge.worker.operations.journal import SuspendInput
from midge.worker.operations.steps import CLEANUP
from midge.worker.record import changed


async def save(context: Context[SuspendInput]) -> dict[str, Any]:
    context.trace.mark("journal")
    if context.machine.handle is None:
        raise DriverError("nothing runs that could be suspended")
    record = await context.parts.driver.suspend(context.spec(), context.machine.handle)
    context.trace.mark("save")
    return record


async def undo(context: Context[SuspendInput], error: BaseException | None) -> None:
    """After a suspend that failed, before its effect or after it, the machine runs; if it cannot, nothing is left."""
    machine, driver = context.machine, context.parts.driver
    if error is None or machine.handle is None:
        return
    try:
        context.kept = await driver.go_on(context.spec(), machine.handle, context.trace)
    except SnapshotUnusable:
        if context.exit is not None:
            # It ended while no worker looked: its exit is on its way, and says what follows.
            context.kept = machine.handle
            return
        await driver.discard_snapshot(machine.id, {})
        await driver.cleanup(machine.id, machine.handle)
        raise


def finish(context: Context[SuspendInput], outcome: Outcome, now_ns: int) -> Aftermath:
    if outcome.error is not None:
        machine = changed(context.machine, "started" if context.kept else "failed", now_ns)
        machine.handle = context.kept
        machine.snapshot = None
        return Aftermath(
            machine, "op_failed", [event("suspend", "failed", "flyd", now_ns, failure(outcome.error))]
        )
    machine = changed(context.machine, "suspended", now_ns)
    machine.handle = None
    machine.snapshot = context.output("save", dict)
    return Aftermath(machine, events=[event("suspend", "suspended", "flyd", now_ns)])


OPERATION = MachineOperation(
    "suspend", Operation("suspend", [Step("save", save, attempts=1), CLEANUP], finalise=undo), finish
)
