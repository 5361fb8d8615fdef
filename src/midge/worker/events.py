"""Events of a machine, in the form the Machines API gives them. Pure."""

from __future__ import annotations

from signal import SIGKILL
from typing import Any

import msgspec

from midge.clock import rfc3339_ms
from midge.ids import new_ulid
from midge.lifecycle.states import OperationKind
from midge.machine.spec import ExitStatus
from midge.operations.engine import error_as_data
from midge.worker.host import EventView

# The type of the event with which an operation begins.
EVENT_TYPES: dict[OperationKind, str] = {
    "create": "launch",
    "start": "start",
    "stop": "stop",
    "settle": "exit",
    "suspend": "suspend",
    "restart": "restart",
    "update": "update",
    "destroy": "destroy",
}


def event(
    kind: str, status: str, source: str, now_ns: int, request: dict[str, Any] | None = None
) -> EventView:
    """A new event. `source` is ``user``, ``proxy`` or ``flyd`` (the worker itself, by the API's name for it)."""
    return EventView(
        id=new_ulid(),
        type=kind,
        status=status,
        source=source,
        timestamp=now_ns // 1_000_000,
        request=request,
    )


def exit_event(
    status: ExitStatus, *, requested: bool, restarting: bool, restart_count: int, now_ns: int
) -> EventView:
    """The `exit` event, whose `request.exit_event` clients read without asking whether it is there."""
    if requested and status.signal == SIGKILL and status.guest_exit_code is None:
        # What was asked to stop and did not was killed with all around it: that is no failure of the machine's.
        status = msgspec.structs.replace(status, guest_signal=int(SIGKILL), error="")
    payload = {
        "exit_code": status.exit_code,
        "guest_exit_code": status.guest_exit_code if status.guest_exit_code is not None else status.exit_code,
        "guest_signal": status.guest_signal,
        "signal": status.signal,
        "oom_killed": status.oom_killed,
        "requested_stop": requested,
        "restarting": restarting,
        "guest_error": status.error,
        "error": status.error,
        "exited_at": rfc3339_ms(status.exited_at_ns or now_ns),
    }
    request = {"exit_event": payload, "restart_count": restart_count}
    return event("exit", "stopped", "flyd", now_ns, request)


def failure(error: BaseException) -> dict[str, Any]:
    """What an event says about an operation that failed."""
    return {"error": error_as_data(error)}
