"""What the exit event says."""

from __future__ import annotations

from typing import Any

import pytest

from midge.machine.spec import ExitStatus
from midge.worker.events import exit_event

KILLED = ExitStatus(exit_code=137, signal=9, error="the machine ended with signal 9 before its process did")


def payload(status: ExitStatus, *, requested: bool) -> dict[str, Any]:
    event = exit_event(status, requested=requested, restarting=False, restart_count=0, now_ns=1)
    assert event.request is not None
    found: dict[str, Any] = event.request["exit_event"]
    return found


def test_a_kill_that_was_asked_for_is_no_error() -> None:
    found = payload(KILLED, requested=True)
    assert (found["exit_code"], found["guest_signal"], found["error"], found["guest_error"]) == (
        137,
        9,
        "",
        "",
    )


@pytest.mark.parametrize(
    ("status", "requested"),
    [(KILLED, False), (ExitStatus(exit_code=1, guest_exit_code=1, error="cannot mount"), True)],
)
def test_another_end_keeps_its_reason(status: ExitStatus, requested: bool) -> None:
    found = payload(status, requested=requested)
    assert (found["guest_error"], found["guest_signal"]) == (status.error, -1)
