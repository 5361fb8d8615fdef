"""States and events by the names the Machines API gives them."""

from __future__ import annotations

from typing import Final, Literal

State = Literal[
    "creating",
    "created",
    "starting",
    "started",
    "stopping",
    "stopped",
    "suspending",
    "suspended",
    "restarting",
    "replacing",
    "replaced",
    "destroying",
    "destroyed",
    "failed",
    "launch_failed",
]

# Something rests here: no operation runs, and nothing changes by itself but a started machine's exit.
PERSISTENT: Final[frozenset[str]] = frozenset({"created", "started", "stopped", "suspended", "failed"})
TERMINAL: Final[frozenset[str]] = frozenset({"destroyed"})
# `replaced` is what an old version answers; no machine is ever in it.
TRANSIENT: Final[frozenset[str]] = frozenset(
    {
        "creating",
        "starting",
        "stopping",
        "suspending",
        "restarting",
        "replacing",
        "destroying",
        "launch_failed",
    }
)

Request = Literal["start", "stop", "suspend", "restart", "update", "destroy", "force_destroy"]
Report = Literal["op_done", "op_failed", "exited_stop", "exited_restart", "exited_destroy"]
Event = Request | Report

OperationKind = Literal["create", "start", "stop", "settle", "suspend", "restart", "update", "destroy"]
