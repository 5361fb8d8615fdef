"""Waiting in slices."""

from __future__ import annotations

from urllib.parse import parse_qs

import httpx2
import pytest

from midge.client.failures import StateUnreachable, WaitTimeout
from tests.unit.client.conftest import Script

NOT_YET = {"error": "deadline_exceeded: machine failed to reach desired state, started, currently stopped"}
THERE = {"ok": True, "state": "started", "version": "01V", "event_id": "01E"}


def slices(script: Script) -> list[int]:
    return [int(parse_qs(request.url.query.decode())["timeout"][0]) for request in script.requests]


def pass_the_slice(script: Script) -> None:
    def on_request(request: httpx2.Request) -> None:
        script.now += int(parse_qs(request.url.query.decode())["timeout"][0])

    script.on_request = on_request


def test_a_state_that_holds_is_one_request(script: Script) -> None:
    script.answers = [httpx2.Response(200, json=THERE)]
    waited = script.client().machines.wait("web", "m", ("started",), timeout_s=30)
    assert waited["state"] == "started"
    assert slices(script) == [30]


def test_long_waits_are_cut_into_minutes(script: Script) -> None:
    pass_the_slice(script)
    script.answers = [*[httpx2.Response(408, json=NOT_YET)] * 2, httpx2.Response(200, json=THERE)]
    script.client().machines.wait("web", "m", ("started",), timeout_s=150)
    assert slices(script) == [60, 60, 30]


def test_the_end_of_the_time_is_a_timeout_with_the_command_to_go_on(script: Script) -> None:
    pass_the_slice(script)
    script.answers = [httpx2.Response(408, json=NOT_YET)] * 2
    with pytest.raises(WaitTimeout) as raised:
        script.client().machines.wait("web", "m", ("started",), timeout_s=90)
    assert "midge machine wait m -a web" in raised.value.hint


def test_an_early_no_means_that_the_state_cannot_come(script: Script) -> None:
    script.answers = [httpx2.Response(408, json=NOT_YET)]
    with pytest.raises(StateUnreachable, match="currently stopped"):
        script.client().machines.wait("web", "m", ("started",), timeout_s=60)


def test_a_server_that_restarts_meanwhile_is_asked_again(script: Script) -> None:
    script.answers = [httpx2.ReadError("reset"), httpx2.Response(200, json=THERE)]
    assert script.client().machines.wait("web", "m", ("started",), timeout_s=5)["event_id"] == "01E"
