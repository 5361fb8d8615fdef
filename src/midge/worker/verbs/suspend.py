"""suspend: save the machine's state and free what it used. When that fails the machine runs on."""

from __future__ import annotations

from typing import Any

from midge.errors import DriverError
from midge.operations.model import Operation, Outcome, Step
from midge.worker.events import event, failure
from midge.worker.verbs.base import CLEANUP, Context, Finish, Verb, changed


async def save(context: Context) -> dict[str, Any]:
    if context.machine.handle is None:
        raise DriverError("nothing runs that could be suspended")
    record = await context.parts.driver.suspend(context.spec(), context.machine.handle)
    context.trace.mark("save")
    return record


def finish(context: Context, outcome: Outcome, now_ns: int) -> Finish:
    if outcome.error is not None:
        machine = changed(context.machine, "started", now_ns)
        return Finish(
            machine, "op_failed", [event("suspend", "failed", "flyd", now_ns, failure(outcome.error))]
        )
    machine = changed(context.machine, "suspended", now_ns)
    machine.handle = None
    machine.snapshot = context.output("save")
    return Finish(machine, events=[event("suspend", "suspended", "flyd", now_ns)])


VERB = Verb("suspend", Operation("suspend", [Step("save", save, attempts=1), CLEANUP]), finish)
