"""The one table of transitions, and the function that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from midge.errors import Conflict, MidgeError, PreconditionFailed
from midge.lifecycle.states import Event, OperationKind, State


@dataclass(frozen=True, slots=True)
class Next:
    """Go to `state` and run the operation `run`, ending the one under way first where `supersede` says so."""

    state: State
    run: OperationKind | None = None
    supersede: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """An operation has ended. Which of the resting states follows is the operation's own result."""

    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Nothing:
    """The machine is already where the request wants it."""


@dataclass(frozen=True, slots=True)
class Join:
    """The operation under way does what is asked: wait for it."""


@dataclass(frozen=True, slots=True)
class Later:
    """Legal as soon as the operation under way has ended."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not in this state. `text` as the Machines API words it; ``{state}`` is filled in."""

    text: str
    conflict: bool = False


Decision = Next | Settled | Nothing | Join | Later | Refuse

_ACTIVE = Refuse("failed_precondition: machine still active, refusing to start")
_REPLACING = Refuse("failed_precondition: machine getting replaced, refusing to start")
_NO_START = Refuse("failed_precondition: unable to start machine from current state: '{state}'")
_NO_STOP = Refuse("failed_precondition: unable to stop machine from current state: '{state}'")
_NO_SUSPEND = Refuse("failed_precondition: unable to suspend machine from current state: '{state}'")
_NO_RESTART = Refuse("failed_precondition: unable to restart machine from current state: '{state}'")
_NO_UPDATE = Refuse("failed_precondition: unable to update machine from current state: '{state}'")
_CONCURRENT = Refuse("aborted: machine update failed due to concurrent update", conflict=True)
_NO_DESTROY = Refuse(
    "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created"
)

# A superseded operation is cancelled and recorded as such; the new one begins with what it left (every driver
# verb is idempotent, and `cleanup` finds leftovers by the machine's id).
TABLE: Final[dict[tuple[State, Event], Decision]] = {
    # ── creating: the image is pulled, the root filesystem built
    ("creating", "op_done"): Settled(("created",)),
    ("creating", "op_failed"): Next("launch_failed", run="destroy"),
    ("creating", "start"): Later(),
    ("creating", "stop"): _NO_STOP,
    ("creating", "suspend"): _NO_SUSPEND,
    ("creating", "restart"): _NO_RESTART,
    ("creating", "update"): Later(),
    ("creating", "destroy"): _NO_DESTROY,
    ("creating", "force_destroy"): Next("destroying", run="destroy", supersede=True),
    # ── created: prepared, never started in this version
    ("created", "start"): Next("starting", run="start"),
    ("created", "stop"): Nothing(),
    ("created", "suspend"): _NO_SUSPEND,
    ("created", "restart"): Next("starting", run="start"),
    ("created", "update"): Next("replacing", run="update"),
    ("created", "destroy"): Next("destroying", run="destroy"),
    ("created", "force_destroy"): Next("destroying", run="destroy"),
    # ── starting: from a template, or resuming from a snapshot
    ("starting", "op_done"): Settled(("started",)),
    ("starting", "op_failed"): Settled(("failed",)),
    ("starting", "start"): Join(),
    ("starting", "stop"): Next("stopping", run="stop", supersede=True),
    ("starting", "suspend"): Later(),
    ("starting", "restart"): Join(),
    ("starting", "update"): Later(),
    ("starting", "destroy"): _NO_DESTROY,
    ("starting", "force_destroy"): Next("destroying", run="destroy", supersede=True),
    # ── started: the process runs
    ("started", "exited_stop"): Next("stopping", run="settle"),
    ("started", "exited_restart"): Next("restarting", run="restart"),
    ("started", "exited_destroy"): Next("destroying", run="destroy"),
    ("started", "start"): Nothing(),
    ("started", "stop"): Next("stopping", run="stop"),
    ("started", "suspend"): Next("suspending", run="suspend"),
    ("started", "restart"): Next("restarting", run="restart"),
    ("started", "update"): Next("replacing", run="update"),
    ("started", "destroy"): _NO_DESTROY,
    ("started", "force_destroy"): Next("destroying", run="destroy"),
    # ── stopping: asked to end, or has ended and is being cleared away
    ("stopping", "op_done"): Settled(("stopped",)),
    ("stopping", "op_failed"): Settled(("failed",)),
    ("stopping", "start"): _ACTIVE,
    ("stopping", "stop"): Join(),
    ("stopping", "suspend"): _NO_SUSPEND,
    ("stopping", "restart"): Later(),
    ("stopping", "update"): Later(),
    ("stopping", "destroy"): Later(),
    ("stopping", "force_destroy"): Next("destroying", run="destroy", supersede=True),
    # ── stopped
    ("stopped", "start"): Next("starting", run="start"),
    ("stopped", "stop"): Nothing(),
    ("stopped", "suspend"): _NO_SUSPEND,
    ("stopped", "restart"): Next("starting", run="start"),
    ("stopped", "update"): Next("replacing", run="update"),
    ("stopped", "destroy"): Next("destroying", run="destroy"),
    ("stopped", "force_destroy"): Next("destroying", run="destroy"),
    # ── suspending: a start wins over it and keeps the same VM; everything else waits or ends it
    ("suspending", "op_done"): Settled(("suspended", "started")),
    ("suspending", "op_failed"): Settled(("started", "failed")),
    ("suspending", "start"): Next("starting", run="start", supersede=True),
    ("suspending", "stop"): Later(),
    ("suspending", "suspend"): Join(),
    ("suspending", "restart"): Later(),
    ("suspending", "update"): Later(),
    ("suspending", "destroy"): Later(),
    ("suspending", "force_destroy"): Next("destroying", run="destroy", supersede=True),
    # ── suspended: memory on disk
    ("suspended", "start"): Next("starting", run="start"),
    ("suspended", "stop"): Next("stopping", run="stop"),
    ("suspended", "suspend"): Nothing(),
    ("suspended", "restart"): Next("restarting", run="restart"),
    ("suspended", "update"): Next("replacing", run="update"),
    ("suspended", "destroy"): Next("destroying", run="destroy"),
    ("suspended", "force_destroy"): Next("destroying", run="destroy"),
    # ── restarting: by request, or by the restart policy, where it may wait for its back-off
    ("restarting", "op_done"): Settled(("started",)),
    ("restarting", "op_failed"): Settled(("failed",)),
    ("restarting", "start"): Join(),
    ("restarting", "stop"): Next("stopping", run="stop", supersede=True),
    ("restarting", "suspend"): Later(),
    ("restarting", "restart"): Join(),
    ("restarting", "update"): Later(),
    ("restarting", "destroy"): _NO_DESTROY,
    ("restarting", "force_destroy"): Next("destroying", run="destroy", supersede=True),
    # ── replacing: the new version is prepared while the old one still runs, then exchanged
    ("replacing", "op_done"): Settled(("started", "stopped", "created")),
    ("replacing", "op_failed"): Settled(("failed", "stopped", "created", "started", "suspended")),
    ("replacing", "start"): _REPLACING,
    ("replacing", "stop"): _NO_STOP,
    ("replacing", "suspend"): _NO_SUSPEND,
    ("replacing", "restart"): _NO_RESTART,
    ("replacing", "update"): _CONCURRENT,
    ("replacing", "destroy"): _NO_DESTROY,
    ("replacing", "force_destroy"): Next("destroying", run="destroy", supersede=True),
    # ── failed: a start did not come up, or a stop did not go through and something may still run
    ("failed", "start"): Next("starting", run="start"),
    ("failed", "stop"): Next("stopping", run="stop"),
    ("failed", "suspend"): _NO_SUSPEND,
    ("failed", "restart"): Next("starting", run="start"),
    ("failed", "update"): Next("replacing", run="update"),
    ("failed", "destroy"): Next("destroying", run="destroy"),
    ("failed", "force_destroy"): Next("destroying", run="destroy"),
    # ── launch_failed: the create did not work out; it is taken back
    ("launch_failed", "op_done"): Settled(("destroyed",)),
    ("launch_failed", "op_failed"): Settled(("failed",)),
    ("launch_failed", "start"): _NO_START,
    ("launch_failed", "stop"): _NO_STOP,
    ("launch_failed", "suspend"): _NO_SUSPEND,
    ("launch_failed", "restart"): _NO_RESTART,
    ("launch_failed", "update"): _NO_UPDATE,
    ("launch_failed", "destroy"): Join(),
    ("launch_failed", "force_destroy"): Join(),
    # ── destroying
    ("destroying", "op_done"): Settled(("destroyed",)),
    ("destroying", "op_failed"): Settled(("failed",)),
    ("destroying", "start"): _NO_START,
    ("destroying", "stop"): _NO_STOP,
    ("destroying", "suspend"): _NO_SUSPEND,
    ("destroying", "restart"): _NO_RESTART,
    ("destroying", "update"): _NO_UPDATE,
    ("destroying", "destroy"): Join(),
    ("destroying", "force_destroy"): Join(),
    # ── destroyed: readable for a while, nothing else
    ("destroyed", "start"): _NO_START,
    ("destroyed", "stop"): _NO_STOP,
    ("destroyed", "suspend"): _NO_SUSPEND,
    ("destroyed", "restart"): _NO_RESTART,
    ("destroyed", "update"): _NO_UPDATE,
    ("destroyed", "destroy"): Nothing(),
    ("destroyed", "force_destroy"): Nothing(),
}


class IllegalTransition(MidgeError):
    """An event came in a state that cannot see it: our bug. Carries what happened before."""

    code = "illegal_transition"

    def __init__(self, state: str, event: str, story: Sequence[str]) -> None:
        super().__init__(
            f"no transition for {event!r} in state {state!r}; before: {' → '.join(story) or 'nothing'}",
            hint="this is a bug: please report it with the machine's events",
            state=state,
            event=event,
            story=list(story),
        )


def decide(state: State, event: Event, story: Sequence[str] = ()) -> Decision:
    """What follows when `event` meets a machine in `state`.

    Raises:
        IllegalTransition: the pair is not in the table.
        PreconditionFailed, Conflict: it is, as a refusal.
    """
    decision = TABLE.get((state, event))
    if decision is None:
        raise IllegalTransition(state, event, story)
    if isinstance(decision, Refuse):
        text = decision.text.format(state=state)
        if decision.conflict:
            raise Conflict(text, hint="wait for the other update to end, then try again", state=state)
        raise PreconditionFailed(text, hint=_HINTS.get(event, ""), state=state)
    return decision


def settle(state: State, result: State, event: Event, story: Sequence[str] = ()) -> State:
    """The resting state after an operation that ended with `result`, checked against the table."""
    decision = TABLE.get((state, event))
    if not isinstance(decision, Settled) or result not in decision.states:
        raise IllegalTransition(state, f"{event} as {result}", story)
    return result


_HINTS: Final[dict[str, str]] = {
    "start": "wait for state=settled, then start it",
    "stop": "wait for state=settled, then stop it",
    "suspend": "only a started machine can be suspended",
    "restart": "wait for state=settled, then restart it",
    "destroy": "stop it first, or destroy it by force: `--force`, or `?force=true` in a request",
}
