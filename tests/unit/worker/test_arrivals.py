"""Which states a machine has come to since an event."""

from __future__ import annotations

import pytest

from midge.worker.arrivals import Moment, first_arrival
from tests.unit.worker.records import machine

STORY = [
    Moment("e1", "starting", "v1", 2),
    Moment("e2", "started", "v1", 3),
    Moment("e3", "started", "v1", 4),  # cordoned
    Moment("e4", "replacing", "v2", 5),
    Moment("e5", "started", "v2", 6),
]


@pytest.mark.parametrize(
    ("since", "states", "version", "event_id"),
    [
        ("e1", {"started"}, "", "e2"),
        ("e1", {"started", "starting"}, "", "e2"),
        ("e1", {"started"}, "v2", "e5"),
        ("e2", {"started"}, "", "e5"),
        ("e2", {"replacing"}, "v1", None),
        ("e5", {"started"}, "", None),
        ("e1", {"stopped"}, "", None),
    ],
)
def test_only_arrivals_after_the_event_count(
    since: str, states: set[str], version: str, event_id: str | None
) -> None:
    now = machine(state="started", version="v2", seq=6)
    found = first_arrival([m for m in STORY if m.event_id >= since], now, since, states, version)
    assert (found.event_id if found else None) == event_id


def test_a_change_without_an_event_is_an_arrival_too() -> None:
    stopping = [Moment("e6", "stopping", "v2", 7)]
    now = machine(state="stopped", version="v2", seq=8)
    found = first_arrival(stopping, now, "e6", {"stopped"}, "")
    assert found is not None
    assert (found.state, found.event_id) == ("stopped", "")


def test_a_machine_that_is_not_published_yet_has_not_arrived() -> None:
    stopping = [Moment("e6", "stopping", "v2", 7)]
    assert (
        first_arrival(stopping, machine(state="started", version="v2", seq=6), "e6", {"started"}, "") is None
    )


def test_without_the_event_only_what_is_known_counts() -> None:
    now = machine(state="started", version="v2", seq=6)
    assert first_arrival([], now, "e9", {"started"}, "") is None
    found = first_arrival(STORY[1:], now, "e1", {"started"}, "")
    assert found is not None
    assert found.event_id == "e2"
