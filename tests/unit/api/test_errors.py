"""What a client sees when something is wrong: status, body, headers."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from midge.api import route
from midge.api.services import Services
from midge.errors import Unavailable
from midge.testing.host import StagedHost

from .client import CheckedClient
from .conftest import IMAGE

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/apps/"),
        ("GET", "/v1/apps/web/"),
        ("GET", "/v1/nothing"),
        ("GET", "//v1/apps"),
        ("HEAD", "/v1/nothing"),
        ("OPTIONS", "/v1/nothing"),
        ("PUT", "/v1/apps/web/machines/1/exec/ws"),
        ("GET", "/v1/apps/web/machines/1/exec/ws"),
        ("GET", "/" + "a/" * 100),
        ("GET", "/v1/apps/a%2Fmachines"),
    ],
)
async def test_what_is_not_routed_is_a_plain_404_before_any_token(
    anonymous: CheckedClient, method: str, url: str
) -> None:
    answer = await anonymous.http.request(method, url)
    if url == "/v1/apps/a%2Fmachines":
        assert answer.status_code == 401  # an encoded slash is part of the app's name
        return
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == ("" if method == "HEAD" else "404 page not found\n")
    assert answer.headers["fly-request-id"]


@pytest.mark.parametrize(
    ("method", "url", "allow"),
    [
        ("PUT", "/v1/apps", "GET, HEAD, POST"),
        ("DELETE", "/v1/apps", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/apps", "GET, HEAD, POST"),
        ("POST", "/v1/apps/web/machines/1/wait", "GET, HEAD"),
        ("GET", "/v1/apps/web/machines/1/start", "POST"),
        ("HEAD", "/v1/apps/web/machines/1/start", "POST"),
        ("WEBSOCKET", "/v1/apps", "GET, HEAD, POST"),
    ],
)
async def test_a_wrong_method_answers_405_before_any_token(
    anonymous: CheckedClient, method: str, url: str, allow: str
) -> None:
    answer = await anonymous.request(method, url)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    assert answer.headers["content-type"] == "application/json"
    if method != "HEAD":
        assert answer.json() == {
            "error": f"method {method} is not allowed here",
            "code": "method_not_allowed",
            "hint": f"this path takes {allow}",
        }


async def test_a_request_cannot_name_itself_a_websocket(client: CheckedClient, url: str) -> None:
    answer = await client.http.request("WEBSOCKET", f"{url}/exec/ws")
    assert (answer.status_code, answer.text) == (404, "404 page not found\n")


async def test_a_head_answers_as_a_get_without_the_body(client: CheckedClient, url: str) -> None:
    # A log that is followed has no end: its head comes all the same.
    for path in (url, f"{url}/logs?follow=true", "/v1/apps/nope"):
        head = await client.request("HEAD", path)
        assert head.content == b"", path
        if "follow" in path:
            assert (head.status_code, head.headers["content-type"]) == (200, "application/x-ndjson")
            continue
        got = await client.get(path)
        told = ("content-type", "content-length")
        assert head.status_code == got.status_code, path
        assert [head.headers[name] for name in told] == [got.headers[name] for name in told], path
        assert int(head.headers["content-length"]) == len(got.content)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer x",
        "Bearer mdg_abc_def",
        "Basic mdg",
        "FlyV1 fm2_abc,fm2_def",
        "Bearer " + "x," * 50,
    ],
)
async def test_an_unknown_token_answers_401(anonymous: CheckedClient, header: str) -> None:
    answer = await anonymous.get("/v1/apps", headers={"authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.json()["error"] == "Authenticate: token validation error"
    assert answer.json()["code"] == "unauthorized"


@pytest.mark.parametrize(
    "form", ["Bearer {}", "bearer {}", "FlyV1 {}", "Bearer FlyV1 {}", "{}", "Bearer  {} ", "FlyV1 fm2_x,{}"]
)
async def test_scheme_words_are_stripped(anonymous: CheckedClient, services: Services, form: str) -> None:
    token = await services.central.tokens.create("t")
    answer = await anonymous.get("/v1/tokens/current", headers={"authorization": form.format(token)})
    assert answer.status_code == 200
    info = answer.json()["tokens"][0]
    assert (info["apps"], info["org_slug"], info["user"]) == (["*"], "personal", "t")


async def test_a_revoked_token_is_unknown(anonymous: CheckedClient, services: Services) -> None:
    token = await services.central.tokens.create("t")
    assert await services.central.tokens.revoke(token.split("_")[1])
    answer = await anonymous.get("/v1/tokens/current", headers={"authorization": token})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "$: the JSON is malformed"),
        (b"{", "$: the JSON is malformed"),
        (b"not json", "$: the JSON is malformed: invalid character"),
        (b'{"config": {"image": "\xff"}}', "the JSON is malformed"),
        (b"[]", "$: expected object, got array"),
        (b"null", "$: expected object, got null"),
        (b"{}", "$: object missing required field config"),
        (b'{"config": null}', "$.config: expected object, got null"),
        (b'{"config": {"image": 5}}', "$.config.image: expected str | null, got int"),
        (b'{"config": {"guest": {"cpus": "two"}}}', "$.config.guest.cpus: expected int | null, got str"),
        (b'{"config": {"env": {"A": 1}}}', "$.config.env.A: expected str, got int"),
        (b'{"config": {"env": {"A": "1", "b c": 1, "D": 2}}}', "$.config.env['b c']: expected str, got int"),
        (b'{"config": {"checks": {"a": {}, "up": {"port": "x"}}}}', "$.config.checks.up.port: expected int"),
        (b'{"config": {"image": "a"}, "lease_ttl": -1}', "$.lease_ttl: expected int >= 0"),
        (b'{"config": {"image": "a"}, "name": 5}', "$.name: expected str | null, got int"),
        (b'{"config": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"config": {"image": "a", "x": ' + b"[" * 9_000 + b"]" * 9_000 + b"}}", "nested too deeply"),
        (
            b'{"config": {"guest": {"cpus": ' + b"9" * 5000 + b"}}}",
            "$.config.guest.cpus: integer value out of range",
        ),
    ],
)
async def test_a_bad_body_answers_400_with_the_path(
    client: CheckedClient, app: str, body: bytes, text: str
) -> None:
    answer = await client.post(app, content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].startswith("invalid_argument: ")
    assert text in answer.json()["error"]


async def test_the_worker_names_members_too(client: CheckedClient, app: str) -> None:
    answer = await client.post(app, json={"config": {"image": "debian", "guest": {"cpus": 4096}}})
    assert answer.status_code == 400
    assert "config.guest.cpus" in answer.json()["error"]


async def test_a_body_needs_no_content_type(client: CheckedClient) -> None:
    answer = await client.post(
        "/v1/apps", content=b'{"name":"plain"}', headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 201


async def test_a_body_over_the_limit_answers_413(
    client: CheckedClient, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midge.api.dispatch.BODY_BYTES_MAX", 100)
    answer = await client.http.post(app, json={"config": {"image": "x" * 100}})
    assert answer.status_code == 413
    assert answer.json()["error"] == "the body has more than 100 bytes"
    assert answer.json()["details"] == {"limit_bytes": 100}
    assert route.BODY_BYTES_MAX > 1_000_000


@pytest.mark.parametrize(
    "query",
    [
        "include_deleted=maybe",
        "summary=2",
        "limit=1.5",
        "limit=" + "9" * 5000,
        "&".join(["a=b"] * 300),
        "limit=%zz",
    ],
)
async def test_a_bad_query_answers_400(client: CheckedClient, app: str, query: str) -> None:
    answer = await client.get(f"{app}?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("invalid_argument: ")


async def test_a_query_over_the_limit_answers_413(client: CheckedClient, app: str) -> None:
    assert (await client.http.get(f"{app}?region={'a' * 20_000}")).status_code == 413


async def test_query_errors_name_the_parameter_and_the_value(client: CheckedClient, app: str) -> None:
    answer = await client.get(f"{app}?limit=many")
    assert (
        answer.json()["error"]
        == "invalid_argument: query parameter limit: expected int | null, got str: 'many'"
    )


async def test_an_unexpected_exception_answers_500_with_the_request_id(
    client: CheckedClient, url: str, host: StagedHost
) -> None:
    host.fail_next = ZeroDivisionError("oops")
    with capture_logs() as logged:
        answer = await client.post(f"{url}/start")
    assert answer.status_code == 500
    body = answer.json()
    assert body["code"] == "internal"
    assert answer.headers["fly-request-id"] in body["error"]
    assert "oops" not in answer.text
    assert logged[-1]["request_id"] == answer.headers["fly-request-id"]
    assert logged[-1]["exc_info"] is True
    assert (await client.get(url)).status_code == 200


async def test_unavailable_says_when_to_retry(client: CheckedClient, url: str, host: StagedHost) -> None:
    host.fail_next = Unavailable("the registry is away", hint="try later", registry="r")
    answer = await client.http.post(f"{url}/start")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json() == {
        "error": "the registry is away",
        "code": "unavailable",
        "hint": "try later",
        "details": {"registry": "r"},
    }


async def test_request_ids_differ_and_the_callers_comes_back(client: CheckedClient) -> None:
    first = await client.get("/healthz", headers={"x-request-id": "abc 1"})
    second = await client.get("/healthz")
    assert first.headers["x-request-id"] == "abc1"
    assert "x-request-id" not in second.headers
    assert first.headers["fly-request-id"] != second.headers["fly-request-id"]
    assert len(first.headers["fly-request-id"]) == 26 + len("-local")


async def test_details_that_are_no_json_are_shown_as_text(
    client: CheckedClient, url: str, host: StagedHost
) -> None:
    host.fail_next = Unavailable("x", path=object)
    answer: dict[str, Any] = (await client.http.post(f"{url}/start")).json()
    assert answer["details"]["path"] == "<class 'object'>"


async def test_unknown_members_are_ignored_everywhere(client: CheckedClient, app: str) -> None:
    answer = await client.post(
        app, json={**IMAGE, "future": {"a": 1}, "config": {"image": "debian", "later": 1}}
    )
    assert answer.status_code == 200
