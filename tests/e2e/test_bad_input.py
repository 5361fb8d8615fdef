"""Requests that cannot work: each has its status and says what is wrong, and the server goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.serve import App, Serve

pytestmark = [pytest.mark.slow, pytest.mark.root]

IMAGE = "midge/hello:latest"


@pytest.fixture
def app(mock: Serve, new_app: Callable[[Serve], App]) -> App:
    return new_app(mock)


@pytest.fixture(autouse=True)
def still_alive(mock: Serve) -> Any:
    yield
    assert mock.call("GET", "/readyz")["ready"] is True


@pytest.mark.parametrize(
    ("config", "status", "said"),
    [
        ({}, 400, "config.image: an image is required"),
        ({"image": IMAGE, "size": "huge-9x"}, 400, "config.size: no such size: 'huge-9x'"),
        ({"image": IMAGE, "guest": {"memory_mb": 8}}, 400, "config.guest.memory_mb: 8 is not between 64"),
        ({"image": IMAGE, "guest": {"cpus": 1000}}, 400, "config.guest.cpus: 1000 is not between 1 and 128"),
        ({"image": IMAGE, "guest": {"cpus": "two"}}, 400, "$.config.guest.cpus: expected int"),
        ({"image": IMAGE, "env": {"A": 1}}, 400, "$.config.env.A: expected str, got int"),
        ({"image": IMAGE, "init": {"cmd": "ls"}}, 400, "$.config.init.cmd: expected array"),
        ({"image": 5}, 400, "$.config.image: expected str"),
        (
            {"image": IMAGE, "restart": {"policy": "never"}},
            400,
            "$.config.restart.policy: invalid enum value",
        ),
        ({"image": IMAGE, "mounts": [{"path": "/x", "volume": "v"}]}, 501, "config.mounts: volumes"),
        (
            {"image": IMAGE, "files": [{"guest_path": "x", "raw_value": ""}]},
            400,
            "config.files[0].guest_path",
        ),
        ({"image": IMAGE, "files": [{"guest_path": "/x", "raw_value": "?"}]}, 400, "raw_value: not base64"),
    ],
)
def test_a_configuration_that_makes_no_sense(app: App, config: Any, status: int, said: str) -> None:
    answer = app.refused(config, status)
    assert said in answer["error"]
    assert answer["code"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "$: the JSON is malformed"),
        (b"", "$: the JSON is malformed"),
        (b"[]", "$: expected object, got array"),
        (b"{}", "$: object missing required field config"),
        (b'{"config": 1}', "$.config: expected object, got int"),
        (b'{"config": {"image": "\xff"}}', "$.config"),
        (b'{"config":' + b'{"a":' * 5000, "$"),
    ],
)
def test_a_body_that_is_no_json_or_the_wrong_one(app: App, body: bytes, said: str) -> None:
    response = app.serve.http.post(app.path, content=body)
    assert response.status_code == 400, response.text
    assert response.headers["fly-request-id"]
    assert said in response.json()["error"]
    assert app.serve.call("GET", app.path) == []


def test_members_nobody_knows_are_kept(app: App) -> None:
    config = {"image": IMAGE, "from_the_future": {"a": [1, None]}, "guest": {"memory_mb": 256, "x": "y"}}
    machine = app.create(config, and_here="too")
    found = machine.get()["config"]
    assert found["from_the_future"] == {"a": [1, None]}
    assert found["guest"] == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256, "x": "y"}


def test_what_is_not_there(app: App) -> None:
    call = app.serve.call
    assert "machine" in call("GET", f"{app.path}/ffffffffffffff", expect=404)["error"]
    assert "app" in call("GET", "/v1/apps/no-such-app/machines", expect=404)["error"]
    assert (
        "app"
        in call("POST", "/v1/apps/no-such-app/machines", {"config": {"image": IMAGE}}, expect=404)["error"]
    )
    call("GET", "/v1/no/such/path", expect=404)
    machine = app.create({"image": IMAGE})
    other = app.serve.app(f"{app.name}-other")
    call("GET", f"{other.path}/{machine.id}", expect=404)


def test_who_has_no_token_learns_nothing(app: App) -> None:
    for authorization in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "nonsense"}):
        client = app.serve.http
        request = client.build_request("GET", f"{client.base_url}{app.path}"[:0] or app.path)
        del request.headers["authorization"]
        request.headers.update(authorization)
        response = client.send(request)
        assert response.status_code == 401
        assert response.headers["fly-request-id"]
        assert response.json()["code"] == "unauthorized"
        assert app.name not in response.text


def test_the_wrong_state_is_named(app: App) -> None:
    machine = app.create({"image": IMAGE})
    machine.stop()
    answers = {
        "exec": machine.call("POST", "/exec", {"command": ["true"]}, expect=412),
        "signal": machine.call("POST", "/signal", {"signal": "SIGTERM"}, expect=412),
        "suspend": machine.call("POST", "/suspend", expect=412),
        "ps": machine.call("GET", "/ps", expect=412),
    }
    for verb, answer in answers.items():
        assert "stopped" in answer["error"], (verb, answer)
        assert answer["code"] == "failed_precondition"
    machine.start()
    running = machine.call("DELETE", "", expect=412)
    assert "unable to destroy machine, not currently stopped" in running["error"]


def test_a_name_is_given_once(app: App) -> None:
    first = app.create({"image": IMAGE}, name="taken")
    answer = app.serve.call("POST", app.path, {"config": {"image": IMAGE}, "name": "taken"}, expect=409)
    assert first.id in answer["error"]
    assert answer["status"] == "name_taken"
    assert len(app.serve.call("GET", app.path)) == 1
    bad = app.serve.call("POST", app.path, {"config": {"image": IMAGE}, "name": "Not A Name"}, expect=400)
    assert "name" in bad["error"]
    first.call("DELETE", "?force=true")
    first.wait("destroyed")
    app.create({"image": IMAGE}, name="taken")


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/stop", {"signal": "SIGNOTHING"}, "$.signal"),
        ("/stop", {"timeout": "soon"}, "$.timeout"),
        ("/stop", {"timeout": "1h"}, "$.timeout"),
        ("/signal", {"signal": 99}, "$.signal"),
        ("/exec", {"command": []}, "$.command"),
        ("/exec", {"cmd": "'unclosed"}, "$.cmd"),
        ("/exec", {"command": ["true"], "timeout": 3600}, "$.timeout"),
        ("/lease", {"ttl": -1}, "$.ttl"),
        ("/metadata/k", {"value": 5}, "$.value"),
    ],
)
def test_a_request_to_a_machine_that_makes_no_sense(app: App, path: str, body: Any, said: str) -> None:
    machine = app.create({"image": IMAGE})
    answer = machine.call("POST", path, body, expect=400)
    assert said in answer["error"]
    assert machine.get()["state"] == "started"


@pytest.mark.parametrize("query", ["state=nowhere", "state=started&timeout=0", "state=started&timeout=600"])
def test_a_wait_that_makes_no_sense(app: App, query: str) -> None:
    machine = app.create({"image": IMAGE})
    answer = machine.call("GET", f"/wait?{query}", expect=400)
    assert "query parameter" in answer["error"]
