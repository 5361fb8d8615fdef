"""create: bring the image here and prepare the root filesystem, so that a start has nothing left to do."""

from __future__ import annotations

from midge.operations.model import Operation, Outcome, Run
from midge.worker.events import event, failure
from midge.worker.operations.context import Context, with_image
from midge.worker.operations.finish import Aftermath, Follow, MachineOperation
from midge.worker.operations.journal import CreateInput
from midge.worker.operations.steps import IMAGE, PREPARE
from midge.worker.record import changed
from midge.worker.requests import Asked


def follow(run: Run) -> Follow | None:
    return None if run.input.skip_launch else ("start", Asked(source="flyd"))


def finish(context: Context[CreateInput], outcome: Outcome, now_ns: int) -> Aftermath:
    if outcome.error is not None:
        # The table runs `destroy` from here: a create that failed leaves nothing behind.
        machine = changed(context.machine, "launch_failed", now_ns)
        events = [event("launch", "failed", "flyd", now_ns, failure(outcome.error))]
        return Aftermath(machine, "op_failed", events)
    machine = changed(with_image(context, context.machine), "created", now_ns)
    return Aftermath(machine, follow=follow(context.run))


OPERATION = MachineOperation("create", Operation("create", [IMAGE, PREPARE]), finish)
