"""The table of transitions is complete, and its refusals say what the Machines API says."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from midge.errors import Conflict, LeaseHeld, PreconditionFailed
from midge.lifecycle.admission import Capacity, Facts, Lease, admit
from midge.lifecycle.states import PERSISTENT, TERMINAL, TRANSIENT, Event, Report, Request, State
from midge.lifecycle.table import TABLE, IllegalTransition, Join, Later, Next, Settled, decide, settle

STATES = [state for state in get_args(State) if state != "replaced"]


def test_every_state_answers_every_request() -> None:
    missing = [pair for pair in product(STATES, get_args(Request)) if pair not in TABLE]
    assert missing == []


def test_the_table_names_only_states_and_events_that_exist() -> None:
    events = {*get_args(Request), *get_args(Report)}
    assert {state for state, _ in TABLE} == set(STATES)
    assert {event for _, event in TABLE} <= events


def test_states_are_persistent_transient_or_terminal() -> None:
    assert set(STATES) == PERSISTENT | TRANSIENT | TERMINAL
    assert not PERSISTENT & TRANSIENT


def test_each_state_in_motion_ends_by_its_operation_alone() -> None:
    for state in TRANSIENT:
        assert isinstance(TABLE[state, "op_done"], Settled)  # type: ignore[index]  # TRANSIENT holds states
        assert ("started", "op_done") not in TABLE


def test_an_operation_begins_only_where_none_runs_or_the_old_one_is_ended() -> None:
    for (state, event), decision in TABLE.items():
        if isinstance(decision, Next) and state in TRANSIENT and event not in get_args(Report):
            assert decision.supersede, (state, event)


def test_join_and_later_need_an_operation_to_wait_for() -> None:
    for (state, _), decision in TABLE.items():
        if isinstance(decision, Join | Later):
            assert state in TRANSIENT


def test_a_pair_outside_the_table_is_a_bug_and_tells_the_story() -> None:
    with pytest.raises(IllegalTransition, match="created → starting") as caught:
        decide("created", "op_done", ["created", "starting"])
    assert caught.value.details["story"] == ["created", "starting"]


def test_an_operation_ends_only_in_a_state_the_table_allows() -> None:
    assert settle("starting", "started", "op_done") == "started"
    with pytest.raises(IllegalTransition):
        settle("starting", "stopped", "op_done")


@pytest.mark.parametrize(
    ("state", "event", "text"),
    [
        ("replacing", "start", "machine getting replaced, refusing to start"),
        ("stopping", "start", "machine still active, refusing to start"),
        ("destroyed", "start", "unable to start machine from current state: 'destroyed'"),
        (
            "started",
            "destroy",
            "unable to destroy machine, not currently stopped, suspended, failed or created",
        ),
    ],
)
def test_refusals_use_the_api_s_words(state: State, event: Event, text: str) -> None:
    with pytest.raises(PreconditionFailed, match=text.replace("(", r"\(")):
        decide(state, event)


def facts(**changes: object) -> Facts:
    base: dict[str, object] = {
        "machine_id": "1857156b526dd8",
        "state": "stopped",
        "request": "start",
        "now_ns": 1_000_000_000,
    }
    return Facts(**{**base, **changes})  # type: ignore[arg-type]  # by name


def test_a_lease_stops_whoever_has_no_nonce_until_it_expires() -> None:
    lease = Lease("0123456789ab", "alice", 2_000_000_000)
    with pytest.raises(LeaseHeld, match="currently held by alice, expires at 1970-01-01T00:00:02Z"):
        admit(facts(lease=lease))
    assert isinstance(admit(facts(lease=lease, nonce="0123456789ab")), Next)
    assert isinstance(admit(facts(lease=lease, now_ns=2_000_000_000)), Next)


def test_the_lease_is_asked_before_the_state() -> None:
    lease = Lease("0123456789ab", "alice", 2_000_000_000)
    with pytest.raises(LeaseHeld):
        admit(facts(lease=lease, state="destroyed"))


def test_a_start_needs_memory_and_a_stop_does_not() -> None:
    full = Capacity(free_mb=100)
    with pytest.raises(Conflict, match="could not reserve resource for machine"):
        admit(facts(memory_mb=256, capacity=full))
    assert isinstance(admit(facts(memory_mb=256, capacity=full, state="started", request="stop")), Next)
    assert isinstance(admit(facts(memory_mb=100, capacity=full)), Next)
