"""restart: end the process if it runs, wait out the policy's back-off, start again. The version stays."""

from __future__ import annotations

import asyncio

from midge.operations.model import Operation, Outcome, Step
from midge.worker.events import event, failure
from midge.worker.operations.context import Context
from midge.worker.operations.finish import Aftermath, MachineOperation, launched, requested_exit
from midge.worker.operations.journal import RestartInput
from midge.worker.operations.steps import CLEANUP, HALT, LAUNCH, undo_launch
from midge.worker.record import changed


async def back_off(context: Context[RestartInput]) -> None:
    """Waits until the policy's delay has passed since the exit, also across a restart of the worker."""
    delay_s = context.input.delay_s
    passed_s = (context.parts.clock.now_ns() - context.run.started_at_ns) / 1e9
    if delay_s > passed_s:
        await asyncio.sleep(delay_s - max(passed_s, 0.0))


def finish(context: Context[RestartInput], outcome: Outcome, now_ns: int) -> Aftermath:
    exits = [] if context.input.policy else requested_exit(context, context.machine, now_ns)
    if outcome.error is not None:
        machine = changed(context.machine, "failed", now_ns)
        machine.handle = None
        failed = event("restart", "failed", "flyd", now_ns, failure(outcome.error))
        return Aftermath(machine, "op_failed", [*exits, failed])
    machine, request = launched(context, context.machine, now_ns)
    return Aftermath(machine, events=[*exits, event("start", "started", "flyd", now_ns, request)])


OPERATION = MachineOperation(
    "restart",
    Operation("restart", [HALT, CLEANUP, Step("back_off", back_off), LAUNCH], finalise=undo_launch),
    finish,
)
