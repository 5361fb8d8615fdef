"""Which states a machine has come to since an event. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from midge.worker.host import WaitResult
from midge.worker.record import Machine


class Moment(NamedTuple):
    """What the machine was from an event on; `seq` orders it among the machine's changes."""

    event_id: str
    state: str
    version: str
    seq: int


def first_arrival(
    moments: Sequence[Moment], machine: Machine, since: str, states: Collection[str], version: str
) -> WaitResult | None:
    """The first time after the event `since` that the machine came to one of `states`, in `version` if one is given.

    Args:
        moments: of the events from `since` on, itself included, oldest first.
        machine: as it is published now. Some changes have no event: the end of a stop, of a create.
    """
    before: tuple[str, str] | None = None
    for moment in moments:
        now = (moment.state, moment.version)
        if moment.event_id > since and now != before and _matches(now, states, version):
            return WaitResult(state=moment.state, version=moment.version, event_id=moment.event_id)
        before = now
    now = (machine.state, machine.version)
    is_later = bool(moments) and machine.seq > moments[-1].seq
    if is_later and now != before and _matches(now, states, version):
        return WaitResult(state=machine.state, version=machine.version, event_id="")
    return None


def _matches(now: tuple[str, str], states: Collection[str], version: str) -> bool:
    return now[0] in states and version in ("", now[1])
