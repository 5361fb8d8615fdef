"""Which phase of a start ended when."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midge.guest.phases import EXEC, MOUNTS, TOOK_MAX_US, StartPhases, took_s
from midge.worker.trace import KNOWN


def took(us: Any) -> bytes:
    return json.dumps({"took_us": us}).encode()


SILENT = b"{}"


def marks(
    hello_alone: bool | None, configured: tuple[bytes, bool], running: bytes
) -> list[tuple[str, float]]:
    """What is marked of a start; no HELLO is asked for where `hello_alone` is None."""
    found: list[tuple[str, float]] = []
    phases = StartPhases(lambda phase, ago_s: found.append((phase, round(ago_s * 1e6))))
    if hello_alone is not None:
        phases.greeted(alone=hello_alone)
    phases.answered(MOUNTS, configured[0], alone=configured[1])
    phases.answered(EXEC, running, alone=True)
    assert {name for name, _ in found} <= KNOWN
    return found


@pytest.mark.parametrize("hello_alone", [False, None])
def test_answers_that_come_together_are_split_as_the_guest_says(hello_alone: bool | None) -> None:
    expected = [("handshake", 50), ("mounts", 20), ("exec", 0)]
    assert marks(hello_alone, (took(30), False), took(20)) == expected


def test_what_came_by_itself_ended_when_it_came() -> None:
    apart = [("handshake", 0), ("mounts", 0), ("exec", 0)]
    assert marks(True, (took(30), True), took(20)) == apart
    assert marks(True, (took(30), False), took(20)) == [("handshake", 0), ("mounts", 20), ("exec", 0)]
    assert marks(False, (took(30), True), took(20)) == [("handshake", 30), ("mounts", 0), ("exec", 0)]


def test_what_the_guest_does_not_tell_apart_is_one_phase() -> None:
    assert marks(False, (SILENT, False), SILENT) == [("guest", 0)]
    assert marks(None, (SILENT, False), SILENT) == [("guest", 0)]
    assert marks(True, (SILENT, False), SILENT) == [("handshake", 0), ("exec", 0)]
    assert marks(False, (SILENT, True), SILENT) == [("mounts", 0), ("exec", 0)]
    assert marks(False, (SILENT, False), took(20)) == [("mounts", 20), ("exec", 0)]
    assert marks(False, (took(30), False), SILENT) == [("guest", 0)]


@pytest.mark.parametrize(
    "value", ["-1", "1.5", "1e3", "1e999", "true", "null", '"7"', "[7]", "{}", "9" * 5000]
)
def test_a_figure_that_cannot_be_one_counts_as_none(value: str) -> None:
    assert took_s(f'{{"took_us": {value}}}'.encode()) is None


def test_a_figure_is_microseconds_up_to_the_longest_start() -> None:
    assert took_s(took(1500)) == 0.0015
    assert took_s(took(TOOK_MAX_US)) == TOOK_MAX_US / 1e6
    assert took_s(took(TOOK_MAX_US + 1)) is None
    assert took_s(took(0)) == 0.0


@given(st.binary())
def test_a_payload_that_is_anything_else_is_no_figure_either(payload: bytes) -> None:
    assert took_s(payload) is None
