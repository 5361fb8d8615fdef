"""Changes of a machine's record, as tables: what was, what is asked, what comes of it."""

from __future__ import annotations

from typing import Any

import pytest

from midge.errors import Conflict, InvalidInput, LeaseHeld, MidgeError, NotFound, PreconditionFailed
from midge.lifecycle.admission import Lease
from midge.worker.edits import (
    LEASE_TTL_MAX_S,
    AcquireLease,
    Edit,
    ReleaseLease,
    SetCordon,
    SetMetadata,
    apply,
)
from tests.unit.worker.records import machine

NOW_NS = 1_000_000_000_000
HELD = Lease("n", "alice", NOW_NS + 1, "deploy")
EXPIRED = Lease("n", "alice", NOW_NS, "deploy")


@pytest.mark.parametrize(
    ("before", "edit", "after", "events"),
    [
        ({}, SetCordon(True), {"cordoned": True}, ["cordon"]),
        ({"cordoned": True}, SetCordon(False), {"cordoned": False}, ["uncordon"]),
        ({"lease": HELD}, SetCordon(True, "n"), {"cordoned": True, "lease": HELD}, ["cordon"]),
        ({"lease": EXPIRED}, SetCordon(True), {"cordoned": True}, ["cordon"]),
        ({"lease": HELD}, ReleaseLease("n"), {"lease": None}, []),
        (
            {"lease": HELD},
            AcquireLease(2, "bob", "", "n"),
            {"lease": Lease("n", "alice", NOW_NS + 2_000_000_000, "deploy")},
            [],
        ),
        (
            {"lease": HELD},
            AcquireLease(2, "bob", "more", "n"),
            {"lease": Lease("n", "alice", NOW_NS + 2_000_000_000, "more")},
            [],
        ),
    ],
)
def test_a_change_is_a_copy_and_its_events(
    before: dict[str, Any], edit: Edit, after: dict[str, Any], events: list[str]
) -> None:
    old = machine(**before)
    new, told = apply(old, edit, NOW_NS)
    assert {name: getattr(new, name) for name in after} == after
    assert [event.type for event in told] == events
    assert (new.seq, new.updated_at_ns, new.state) == (old.seq + 1, NOW_NS, old.state)
    assert old == machine(**before), "a machine is never changed in place"


@pytest.mark.parametrize("lease", [None, EXPIRED])
def test_a_lease_that_nobody_holds_is_new(lease: Lease | None) -> None:
    new, _ = apply(machine(lease=lease), AcquireLease(30, ""), NOW_NS)
    assert new.lease is not None and new.lease.nonce != "n"
    assert (new.lease.owner, new.lease.expires_at_ns) == ("unknown", NOW_NS + 30_000_000_000)


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        (None, {"a": "1"}, {"a": "1"}),
        ({"a": "1", "b": "2"}, {"a": "3", "b": None}, {"a": "3"}),
        ({"a": "1"}, {"a": "", "c": None}, {}),
    ],
)
def test_metadata_is_merged(
    before: dict[str, str] | None, changes: dict[str, str | None], after: dict[str, str]
) -> None:
    new, events = apply(machine(metadata=before, unknown=[1]), SetMetadata(changes, "01V1"), NOW_NS)
    assert (new.config.metadata, events, new.version) == (after, [], "01V1")
    assert b'"unknown":[1]' in new.config_json


def test_a_cordon_that_is_there_changes_nothing() -> None:
    old = machine(cordoned=True)
    new, events = apply(old, SetCordon(True), NOW_NS)
    assert new is old and events == []


@pytest.mark.parametrize(
    ("before", "edit", "error"),
    [
        ({"lease": HELD}, SetCordon(True), LeaseHeld),
        ({"lease": HELD}, AcquireLease(1, "bob"), LeaseHeld),
        ({"lease": HELD}, ReleaseLease("wrong"), Conflict),
        ({}, ReleaseLease("n"), NotFound),
        ({"lease": EXPIRED}, ReleaseLease("n"), NotFound),
        ({}, AcquireLease(0, "bob"), InvalidInput),
        ({}, AcquireLease(LEASE_TTL_MAX_S + 1, "bob"), InvalidInput),
        ({}, SetMetadata({"a": "1"}, "01V0"), PreconditionFailed),
        ({"state": "destroyed"}, SetMetadata({"a": "1"}), NotFound),
        ({"state": "destroyed"}, SetCordon(True), NotFound),
        ({"state": "destroyed"}, AcquireLease(1, "bob"), NotFound),
    ],
)
def test_what_is_refused(before: dict[str, Any], edit: Edit, error: type[MidgeError]) -> None:
    with pytest.raises(error):
        apply(machine(**before), edit, NOW_NS)
