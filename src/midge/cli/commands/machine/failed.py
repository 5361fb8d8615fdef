"""Why a machine did not do what it was to do: its events know."""

from __future__ import annotations

from midge.cli.commands.machine.config_options import Json
from midge.cli.commands.machine.events import failure, failure_hint
from midge.cli.targets import Target
from midge.errors import MidgeError


class MachineFailed(MidgeError):
    """The machine could not be made, changed, or run its command."""

    code = "machine_failed"


def not_done(target: Target, machine: Json, what: str) -> MachineFailed:
    """``machine x did not start: …``, with the reason of the machine's latest failure."""
    reason, hint = reason_of(machine)
    return MachineFailed(
        f"machine {target.typed} {what}: {reason or 'it is ' + machine['state']}",
        hint="; ".join(filter(None, (hint, f"see `{target.command('events')}`"))),
    )


def reason_of(machine: Json) -> tuple[str, str]:
    """The reason of a failure, and what to do about it, as the latest event that says so gives them."""
    events = machine.get("events") or []
    return next(((reason, failure_hint(event)) for event in events if (reason := failure(event))), ("", ""))
