"""destroy: end what runs, remove everything the host has of the machine. Its record stays readable for a while."""

from __future__ import annotations

import asyncio
import shutil

from midge.errors import NotRunning
from midge.operations.model import Operation, Outcome, Step
from midge.worker.events import event, failure
from midge.worker.operations.context import Context
from midge.worker.operations.finish import Aftermath, MachineOperation, requested_exit
from midge.worker.operations.journal import DestroyInput, Halted
from midge.worker.operations.steps import kill_and_wait
from midge.worker.record import changed


async def kill(context: Context[DestroyInput]) -> Halted:
    machine = context.machine
    if machine.snapshot is not None:
        await context.parts.driver.discard_snapshot(machine.id, machine.snapshot)
    if machine.handle is None:
        return Halted()
    try:
        status = context.exit or await kill_and_wait(context, machine.handle)
    except NotRunning:
        return Halted()
    return Halted(exit=status)


async def remove(context: Context[DestroyInput]) -> None:
    await context.parts.driver.destroy(context.machine.id)


async def drop_logs(context: Context[DestroyInput]) -> None:
    """The log of a machine that never launched has nothing to read; others keep theirs until they are forgotten."""
    if context.input.launch_failed:
        folder = context.parts.log_path(context.machine.id).parent
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def finish(context: Context[DestroyInput], outcome: Outcome, now_ns: int) -> Aftermath:
    source = context.input.source
    if outcome.error is not None:
        machine = changed(context.machine, "failed", now_ns)
        return Aftermath(
            machine, "op_failed", [event("destroy", "failed", source, now_ns, failure(outcome.error))]
        )
    machine = changed(context.machine, "destroyed", now_ns)
    # The exit that led here by itself (auto_destroy) is recorded already.
    exits = [] if context.input.exited else requested_exit(context, machine, now_ns)
    machine.handle = None
    machine.snapshot = None
    machine.lease = None
    machine.ipv4 = ""
    machine.destroyed_at_ns = now_ns
    return Aftermath(machine, events=[*exits, event("destroy", "destroyed", "flyd", now_ns)])


OPERATION = MachineOperation(
    "destroy",
    Operation("destroy", [Step("halt", kill), Step("remove", remove), Step("drop_logs", drop_logs)]),
    finish,
)
