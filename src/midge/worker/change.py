"""One durable write of a machine: its record, events and runs in one transaction, then published."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import structlog

from midge.errors import MidgeError, chain
from midge.lifecycle.states import Request
from midge.operations.model import Run
from midge.worker import table
from midge.worker.events import event, failure
from midge.worker.host import EventView
from midge.worker.parts import Parts
from midge.worker.record import Machine, touched

_log = structlog.get_logger("midge.worker")


@dataclass(slots=True)
class Change:
    """What one write holds.

    Attributes:
        new: the machine has no row yet.
        whole: write every column and the version, not just what a change of state touches.
        forget_version: a version that never came to life.
        replace_version_config: the version's configuration changes without a new version (metadata).
    """

    machine: Machine
    events: list[EventView] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    new: bool = False
    whole: bool = False
    forget_version: str = ""
    replace_version_config: bool = False


async def record_refusal(parts: Parts, machine: Machine, request: Request, error: Exception) -> None:
    """What the worker wanted by itself has nobody who is told no: so the machine's events say it."""
    _log.warning("follow-up refused", machine=machine.id, request=request, error=chain(error))
    now_ns = parts.clock.now_ns()
    kind = "destroy" if request == "force_destroy" else request
    refused = event(kind, "failed", "flyd", now_ns, failure(error))
    try:
        await commit(parts, Change(touched(machine, now_ns), events=[refused]))
    except MidgeError as second:
        _log.error("refusal not recorded", machine=machine.id, error=chain(second))


async def commit(parts: Parts, change: Change) -> None:
    """Returns when it is on the disk. Nobody sees a change before that."""
    machine = change.machine
    columns = table.all_columns(machine) if change.whole else table.hot_columns(machine)
    runs = [table.run_columns(run) for run in change.runs]
    moment = table.moment_columns(machine)
    prune = machine.seq % table.PRUNE_EVERY == 0  # every change has the next `seq`

    def job(connection: Any) -> None:
        if change.new:
            table.insert_machine(connection, machine)
        else:
            (table.update_all if change.whole else table.update_hot)(connection, columns)
        if change.whole:
            version = (machine.id, machine.version, machine.config_json)
            table.insert_version(connection, *version, replace=change.replace_version_config)
        if change.forget_version:
            table.delete_version(connection, machine.id, change.forget_version)
        for run in runs:
            table.put_run(connection, run)
        for told in change.events:
            table.insert_event(connection, moment, told)
        if prune:
            table.prune(connection, machine.id)

    await parts.database.write(job)
    parts.catalog.publish(machine, change.events[-1].id if change.events else "")
