"""update: prepare the new version while the old one still runs, then exchange them.

The new version's id is given out before any of this happens. When its image or root filesystem cannot be made, the old
version goes on as if nothing had been asked, and the event says why.
"""

from __future__ import annotations

import msgspec

from midge.errors import Conflict
from midge.lifecycle.admission import live_lease
from midge.lifecycle.states import State
from midge.machine.config import MachineConfig
from midge.operations.model import Operation, Outcome, Step
from midge.worker.edits import new_lease
from midge.worker.events import event, failure
from midge.worker.operations.context import Context, with_image
from midge.worker.operations.finish import Aftermath, MachineOperation, launched, requested_exit
from midge.worker.operations.journal import Launched, OldVersion, Ready, UpdateInput
from midge.worker.operations.steps import CLEANUP, HALT, IMAGE, PREPARE, launch, undo_launch
from midge.worker.record import Machine, changed, shape_of, with_metadata
from midge.worker.requests import NewVersion


def check_version(expected: str, machine: Machine) -> None:
    """Raises Conflict where the machine has another version than the caller has seen; "": any will do."""
    if expected and expected != machine.version:
        raise Conflict(
            f"aborted: current_version is {expected}, the machine has {machine.version}",
            hint="read the machine again and repeat the change",
        )


def begin(machine: Machine, wanted: NewVersion, state: State, now_ns: int) -> tuple[Machine, UpdateInput]:
    """The machine as it is from now on, and what the operation is given. Pure.

    Raises:
        Conflict: others have had their turn, and the version is not the one that was to be replaced.
    """
    check_version(wanted.current_version, machine)
    new = changed(machine, state, now_ns)
    new.version, new.config_json, new.image_ref = wanted.version, wanted.config_json, wanted.image_ref
    new.memory_mb = wanted.memory_mb
    if wanted.lease_ttl_s and live_lease(new.lease, now_ns) is None:
        new.lease = new_lease(wanted.lease_ttl_s, wanted.owner, "", now_ns)
    return new, UpdateInput(
        old=OldVersion.of(machine),
        metadata=wanted.metadata,
        skip_launch=wanted.skip_launch,
        source=wanted.source,
    )


def _was_started(context: Context[UpdateInput]) -> bool:
    return context.input.old.state == "started"


async def launch_if_due(context: Context[UpdateInput]) -> Launched | None:
    if _was_started(context) and not context.input.skip_launch:
        return await launch(context)
    return None


def finish(context: Context[UpdateInput], outcome: Outcome, now_ns: int) -> Aftermath:
    old = context.input.old
    if outcome.error is not None and context.output("prepare_done", Ready) is None:
        return _go_back(context, outcome.error, now_ns)
    exits = requested_exit(context, context.machine, now_ns)
    if outcome.error is not None:
        machine = changed(with_image(context, context.machine), "failed", now_ns)
        machine.handle = None
        machine.snapshot = None
        failed = event("update", "failed", "flyd", now_ns, failure(outcome.error))
        return Aftermath(machine, "op_failed", [*exits, failed])
    if context.output("launch", Launched) is not None:
        machine, request = launched(context, context.machine, now_ns)
        return Aftermath(machine, events=[*exits, event("start", "started", "flyd", now_ns, request)])
    state: State = "created" if old.state == "created" else "stopped"
    machine = changed(with_image(context, context.machine), state, now_ns)
    machine.handle = None
    machine.snapshot = None
    return Aftermath(machine, events=[*exits, event("update", state, "flyd", now_ns)])


def _go_back(context: Context[UpdateInput], error: Exception, now_ns: int) -> Aftermath:
    """The old version as it was, with the metadata that was set meanwhile. It never stopped."""
    old = context.input.old
    machine = changed(context.machine, old.state, now_ns)
    machine.version = old.version
    machine.config_json = with_metadata(old.config_json, _metadata_set_since(context))
    machine.image_ref = old.image_ref
    machine.image_process = old.image_process
    machine.memory_mb = shape_of(msgspec.json.decode(machine.config_json, type=MachineConfig)).memory_mb
    failed = event("update", "failed", "flyd", now_ns, failure(error))
    return Aftermath(machine, "op_failed", [failed], forget_version=context.machine.version)


def _metadata_set_since(context: Context[UpdateInput]) -> dict[str, str | None]:
    """What has changed in the new version's metadata since the update began."""
    now = context.machine.config.metadata or {}
    begun = context.input.metadata
    if begun is None:
        return {}
    return {key: now.get(key) for key in begun.keys() | now.keys() if begun.get(key) != now.get(key)}


async def prepare_done(context: Context[UpdateInput]) -> Ready:
    """Marks the point of no return: from here on the old version is being taken down."""
    return Ready()


async def undo(context: Context[UpdateInput], error: BaseException | None) -> None:
    if error is not None and context.output("prepare_done", Ready) is not None:
        await undo_launch(context, error)


OPERATION = MachineOperation(
    "update",
    Operation(
        "update",
        [
            IMAGE,
            PREPARE,
            Step("prepare_done", prepare_done),
            HALT,
            CLEANUP,
            Step("launch", launch_if_due, attempts=2),
        ],
        finalise=undo,
    ),
    finish,
)
