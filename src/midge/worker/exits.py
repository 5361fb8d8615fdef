"""What follows when a machine's process has ended by itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from midge.lifecycle.restart import WINDOW_S, after_exit
from midge.lifecycle.states import OperationKind
from midge.lifecycle.table import Next, decide
from midge.machine.spec import ExitStatus
from midge.worker.events import exit_event
from midge.worker.host import EventView
from midge.worker.operations.journal import DestroyInput, Input, RestartInput, SettleInput
from midge.worker.record import Machine, changed


@dataclass(frozen=True, slots=True)
class Consequence:
    """The operation that begins now, the machine as it is from now on, and the exit as its events tell it."""

    kind: OperationKind
    input: Input
    machine: Machine
    event: EventView


def consequence(machine: Machine, status: ExitStatus, now_ns: int) -> Consequence:
    """By restart policy and `auto_destroy`: settle, restart, or destroy.

    Raises:
        IllegalTransition: the machine is not `started`.
    """
    now_s = now_ns / 1e9
    verdict = after_exit(machine.config, status, requested=False, retries_s=machine.retries_s, now_s=now_s)
    restarting = verdict.then == "restart"
    following = decide(machine.state, f"exited_{verdict.then}", machine.story)  # type: ignore[arg-type]  # a Report
    assert isinstance(following, Next) and following.run is not None
    new = changed(machine, following.state, now_ns)
    if restarting:
        new.retries_s = (*(at for at in machine.retries_s if now_s - at < WINDOW_S), now_s)
    left = exit_event(
        status, requested=False, restarting=restarting, restart_count=len(new.retries_s), now_ns=now_ns
    )
    given: Input = SettleInput(source="flyd")
    if restarting:
        given = RestartInput(source="flyd", policy=True, delay_s=verdict.delay_s)
    elif following.run == "destroy":
        given = DestroyInput(source="flyd", exited=True)
    return Consequence(following.run, given, new, left)
