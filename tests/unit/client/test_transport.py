"""Sending: what is repeated, what is not, and what a broken connection becomes."""

from __future__ import annotations

import httpx2
import pytest

from midge.client import machines
from midge.client.failures import TransportError
from midge.client.request import Request, path, query
from midge.client.retry import ATTEMPTS_MAX, RetryPolicy
from midge.errors import NotFound, Unavailable
from tests.unit.client.conftest import Script

GET = machines.get_machine("web", "1857156b526dd8")
CREATE = machines.create("web", {"image": "debian"})


def busy(**headers: str) -> httpx2.Response:
    return httpx2.Response(503, json={"error": "busy", "code": "unavailable"}, headers=headers)


def test_the_token_and_the_version_are_sent(script: Script) -> None:
    script.answers = [httpx2.Response(200, json={})]
    script.client().transport.send(GET)
    headers = script.requests[0].headers
    assert headers["authorization"] == "Bearer secret"
    assert headers["user-agent"].startswith("midge/")


def test_no_token_sends_no_header(script: Script) -> None:
    script.answers = [httpx2.Response(200, json={})]
    script.client(token="").transport.send(GET)
    assert "authorization" not in script.requests[0].headers


def test_a_busy_server_is_asked_again_with_growing_pauses(script: Script) -> None:
    script.answers = [busy(), busy(), httpx2.Response(200, json={"id": "1"})]
    assert script.client().transport.send(GET).body == {"id": "1"}
    assert script.pauses == [0.1, 0.2]


def test_the_servers_own_pause_is_kept(script: Script) -> None:
    script.answers = [busy(**{"retry-after": "3"}), httpx2.Response(200, json={})]
    script.client().transport.send(GET)
    assert script.pauses == [3.0]


def test_a_long_pause_is_the_callers_business(script: Script) -> None:
    script.answers = [busy(**{"retry-after": "600"})]
    with pytest.raises(Unavailable):
        script.client().transport.send(GET)
    assert script.pauses == []


def test_it_gives_up_after_the_limit(script: Script) -> None:
    script.answers = [busy()] * ATTEMPTS_MAX
    with pytest.raises(Unavailable, match="busy"):
        script.client().transport.send(GET)
    assert len(script.requests) == ATTEMPTS_MAX


def test_a_create_is_not_sent_twice_when_the_server_was_busy(script: Script) -> None:
    script.answers = [busy()]
    with pytest.raises(Unavailable):
        script.client().transport.send(CREATE)
    assert len(script.requests) == 1


def test_a_create_is_not_sent_twice_when_the_connection_broke(script: Script) -> None:
    script.answers = [httpx2.ReadError("reset")]
    with pytest.raises(TransportError, match="the connection broke"):
        script.client().transport.send(CREATE)
    assert len(script.requests) == 1


def test_a_refused_connection_carried_nothing_so_a_create_is_sent_again(script: Script) -> None:
    script.answers = [httpx2.ConnectError("refused"), httpx2.Response(200, json={"id": "1"})]
    assert script.client().transport.send(CREATE).body == {"id": "1"}


def test_other_errors_are_final(script: Script) -> None:
    script.answers = [httpx2.Response(404, json={"error": "machine not found"})]
    with pytest.raises(NotFound):
        script.client().transport.send(GET)
    assert len(script.requests) == 1


def test_nobody_there_is_said_with_the_address_and_a_way_out(script: Script) -> None:
    script.answers = [httpx2.ConnectError("refused")] * ATTEMPTS_MAX
    with pytest.raises(TransportError, match=r"no server answers at http://127\.0\.0\.1:4280") as raised:
        script.client().transport.send(GET)
    assert "midge serve" in raised.value.hint


def test_an_accepted_status_is_an_answer(script: Script) -> None:
    script.answers = [httpx2.Response(503, json={"ready": False, "checks": []})]
    assert script.client().server.ready() == {"ready": False, "checks": []}


def test_lines_come_whole_and_without_the_last_newline(script: Script) -> None:
    script.answers = [httpx2.Response(200, content=iter([b'{"a"', b':1}\n{"b":2}\n', b'{"c":3}']))]
    with script.client().transport.lines(GET) as lines:
        assert list(lines) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


def test_a_stream_that_is_refused_raises_the_error(script: Script) -> None:
    script.answers = [httpx2.Response(404, json={"error": "machine not found"})]
    with pytest.raises(NotFound), script.client().transport.lines(GET):
        raise AssertionError("not reached")


def test_names_cannot_leave_their_place_in_a_path() -> None:
    assert path("apps", "../orgs/x?y", "machines") == "/v1/apps/..%2Forgs%2Fx%3Fy/machines"


def test_queries_leave_out_what_is_not_there() -> None:
    assert query(a="", b=None, c=0, d=True) == (("c", "0"), ("d", "true"))


def test_the_policy_stays_below_its_limit() -> None:
    policy = RetryPolicy(attempts=10)
    pauses = [policy.pause_s(sent, lambda: 0.999) for sent in range(1, 11)]
    assert pauses[-1] is None
    assert all(pause is not None and pause <= policy.pause_max_s for pause in pauses[:-1])


def test_a_request_without_a_body_sends_none(script: Script) -> None:
    script.answers = [httpx2.Response(200, json={"ok": True})]
    script.client().transport.send(Request(method="POST", path="/v1/x"))
    assert script.requests[0].content == b""
