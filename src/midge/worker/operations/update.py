"""update: prepare the new version while the old one still runs, then exchange them.

The new version's id is given out before any of this happens. When its image or root filesystem cannot be made, the old
version goes on as if nothing had been asked, and the event says why.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from midge.lifecycle.states import State
from midge.machine.config import MachineConfig
from midge.operations.model import Operation, Outcome, Step
from midge.worker.events import event, failure
from midge.worker.host import ImageRefView
from midge.worker.operations.context import Context, with_image
from midge.worker.operations.finish import Finish, MachineOperation, launched, requested_exit
from midge.worker.operations.steps import CLEANUP, HALT, IMAGE, PREPARE, launch, undo_launch
from midge.worker.record import ImageProcess, Machine, changed, shape_of, with_metadata


def remember(machine: Machine) -> dict[str, Any]:
    """What an update must know of the version it replaces, to go back to it."""
    return {
        "state": machine.state,
        "version": machine.version,
        "config": base64.b64encode(machine.config_json).decode(),
        "image_ref": msgspec.to_builtins(machine.image_ref),
        "image_process": msgspec.to_builtins(machine.image_process),
    }


def _was_started(context: Context) -> bool:
    return bool(context.run.input["old"]["state"] == "started")


async def launch_if_due(context: Context) -> dict[str, Any] | None:
    if _was_started(context) and not context.run.input.get("skip_launch"):
        return await launch(context)
    return None


def finish(context: Context, outcome: Outcome, now_ns: int) -> Finish:
    old = context.run.input["old"]
    if outcome.error is not None and context.output("prepare_done") is None:
        return _go_back(context, outcome.error, now_ns)
    exits = requested_exit(context, context.machine, now_ns)
    if outcome.error is not None:
        machine = changed(with_image(context, context.machine), "failed", now_ns)
        machine.handle = None
        machine.snapshot = None
        failed = event("update", "failed", "flyd", now_ns, failure(outcome.error))
        return Finish(machine, "op_failed", [*exits, failed])
    if context.output("launch") is not None:
        machine, request = launched(context, context.machine, now_ns)
        return Finish(machine, events=[*exits, event("start", "started", "flyd", now_ns, request)])
    state: State = "created" if old["state"] == "created" else "stopped"
    machine = changed(with_image(context, context.machine), state, now_ns)
    machine.handle = None
    machine.snapshot = None
    return Finish(machine, events=[*exits, event("update", state, "flyd", now_ns)])


def _go_back(context: Context, error: Exception, now_ns: int) -> Finish:
    """The old version as it was, with the metadata that was set meanwhile. It never stopped."""
    old = context.run.input["old"]
    machine = changed(context.machine, old["state"], now_ns)
    machine.version = old["version"]
    machine.config_json = with_metadata(base64.b64decode(old["config"]), _metadata_set_since(context))
    machine.image_ref = msgspec.convert(old["image_ref"], ImageRefView)
    machine.image_process = msgspec.convert(old["image_process"], ImageProcess)
    machine.memory_mb = shape_of(msgspec.json.decode(machine.config_json, type=MachineConfig)).memory_mb
    failed = event("update", "failed", "flyd", now_ns, failure(error))
    return Finish(machine, "op_failed", [failed], forget_version=context.machine.version)


def _metadata_set_since(context: Context) -> dict[str, str | None]:
    """What has changed in the new version's metadata since the update began."""
    now = context.machine.config.metadata or {}
    begun: dict[str, str] = context.run.input.get("metadata", now)  # unknown to updates of an earlier Midge
    return {key: now.get(key) for key in begun.keys() | now.keys() if begun.get(key) != now.get(key)}


async def prepare_done(context: Context) -> dict[str, bool]:
    """Marks the point of no return: from here on the old version is being taken down."""
    return {"ready": True}


async def undo(context: Context, error: BaseException | None) -> None:
    if error is not None and context.output("prepare_done") is not None:
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
