"""From what somebody typed to the machine meant: an id, the first digits of one, or a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from midge.cli import settings
from midge.cli.exits import UsageFailure
from midge.cli.failure import doing
from midge.cli.session import Session
from midge.errors import NotFound
from midge.ids import is_machine_id

Json = dict[str, Any]

# Fewer digits than this name a machine only by accident.
PREFIX_MIN = 3

# Candidates named in a message.
SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Target:
    """A machine that exists. `typed` is what the user called it."""

    app: str
    id: str
    typed: str
    state: str

    def command(self, verb: str, rest: str = "") -> str:
        """A command line about this machine, for hints."""
        return f"midge machine {verb} {self.id} -a {self.app}" + (f" {rest}" if rest else "")


def find(session: Session, typed: str, app_flag: str) -> Target:
    """The machine that `typed` names.

    With an app named somewhere the search stays in it, except for a whole id. Without one it covers the
    organization.

    Raises:
        NotFound: there is none; the hint has the closest name.
        UsageFailure: there are several.
    """
    app = settings.app(session, app_flag)
    with doing(f"find machine {typed!r}"):
        if app is not None and is_machine_id(typed):
            machine = session.client.machines.get(app.value, typed)
            return Target(app.value, machine["id"], typed, machine["state"])
        return choose(typed, list(_candidates(session, app.value if app else "")))


def find_all(session: Session, typed: Sequence[str], app_flag: str) -> list[Target]:
    """As `find`, for several; nothing is done to any of them when one is missing."""
    return list({target.id: target for target in (find(session, name, app_flag) for name in typed)}.values())


def choose(typed: str, candidates: Sequence[Target]) -> Target:
    """By id, by name, by the first digits of an id: the first kind that matches counts."""
    by_id = [target for target in candidates if target.id == typed]
    by_name = [target for target in candidates if target.typed == typed]
    by_prefix = [target for target in candidates if len(typed) >= PREFIX_MIN and target.id.startswith(typed)]
    for found in (by_id, by_name, by_prefix):
        if len(found) == 1:
            return Target(found[0].app, found[0].id, typed, found[0].state)
        if found:
            listed = ", ".join(f"{target.id} in {target.app}" for target in found[:SHOWN_MAX])
            raise UsageFailure(
                f"{typed!r} names {len(found)} machines: {listed}",
                hint="type more of the id, or name the app with --app",
            )
    names = [name for target in candidates for name in (target.typed, target.id)]
    close = get_close_matches(typed, names, n=1)
    hint = f"did you mean {close[0]}?" if close else "see `midge machine list`"
    raise NotFound(f"no machine {typed!r}", hint=hint)


def _candidates(session: Session, app: str) -> Iterator[Target]:
    """Machines, with their names in `typed`."""
    if app:
        machines: Iterator[Json] = session.client.machines.list(app, summary=True)
    else:
        machines = session.client.server.machines(settings.org(session).value)
    for machine in machines:
        yield Target(machine.get("app_name", app), machine["id"], machine["name"], machine["state"])
