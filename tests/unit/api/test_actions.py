"""What a machine is told to do, with Fly's texts where it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from midge.errors import Conflict
from midge.testing.host import StagedHost

from .client import CheckedClient
from .conftest import IMAGE

pytestmark = pytest.mark.anyio


async def wait(client: CheckedClient, url: str, state: str) -> dict[str, Any]:
    answer = await client.get(f"{url}/wait?state={state}&timeout=60")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_stop_and_start(client: CheckedClient, url: str) -> None:
    # fly-go sends the id and a timeout of zero with every stop.
    stopped = await client.post(f"{url}/stop", json={"id": "x", "timeout": "0s"})
    assert (stopped.status_code, stopped.json()) == (200, {"ok": True})
    assert (await wait(client, url, "stopped"))["ok"] is True
    assert (await client.post(f"{url}/stop")).status_code == 200
    started = await client.post(f"{url}/start")
    assert started.json() == {"previous_state": "stopped", "migrated": False, "new_host": ""}
    await wait(client, url, "started")
    assert (await client.post(f"{url}/start")).json()["previous_state"] == "started"


async def test_an_exit_event_says_how_it_ended(client: CheckedClient, url: str, host: StagedHost) -> None:
    await host.exit(url.rpartition("/")[2], 3)
    events = (await client.get(f"{url}/events")).json()
    newest = next(event for event in events if event["type"] in ("exit", "start"))
    assert newest["type"] == "exit"  # what follows is the restart that the policy asks for
    assert newest["request"]["exit_event"]["exit_code"] == 3
    assert newest["request"]["exit_event"]["requested_stop"] is False


@pytest.mark.parametrize(
    "body",
    [
        {"signal": "SIGTERM"},
        {"timeout": "1m30s"},
        {"timeout": 5_000_000_000},
        {"signal": "", "timeout": ""},
        {"signal": None, "timeout": None, "more": 1},
        {},
    ],
)
async def test_stop_accepts(client: CheckedClient, url: str, body: dict[str, Any]) -> None:
    assert (await client.post(f"{url}/stop", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], "$: expected object, got array"),
        ({"signal": "SIGSEGV"}, "$.signal: not a stop signal: 'SIGSEGV'"),
        ({"signal": 9}, "$.signal: expected str | null, got int"),
        ({"timeout": "soon"}, "$.timeout: not a duration: 'soon'"),
        ({"timeout": "-1s"}, "$.timeout"),
        ({"timeout": "301s"}, "$.timeout: 301 s is more than 300 s"),
        ({"timeout": "9" * 400}, "$.timeout: not a duration"),
    ],
)
async def test_stop_refuses(client: CheckedClient, url: str, body: Any, text: str) -> None:
    answer = await client.post(f"{url}/stop", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"invalid_argument: {text}")


async def test_starting_a_stopping_machine_is_refused(
    client: CheckedClient, url: str, host: StagedHost
) -> None:
    host.driver.hold()
    await client.post(f"{url}/stop")
    answer = await client.post(f"{url}/start")
    assert answer.status_code == 412
    assert answer.json()["error"] == "failed_precondition: machine still active, refusing to start"


async def test_starting_a_replacing_machine_is_refused(
    client: CheckedClient, url: str, host: StagedHost
) -> None:
    host.driver.hold()
    await client.post(url, json=IMAGE)
    answer = await client.post(f"{url}/start")
    assert answer.json()["error"] == "failed_precondition: machine getting replaced, refusing to start"
    again = await client.post(url, json=IMAGE)
    assert again.status_code == 409
    assert again.json()["error"] == "aborted: machine update failed due to concurrent update"


async def test_a_host_without_room_answers_409(client: CheckedClient, url: str, host: StagedHost) -> None:
    await client.post(f"{url}/stop")
    await wait(client, url, "stopped")
    host.fail_next = Conflict("aborted: could not reserve resource for machine: insufficient memory")
    assert (await client.post(f"{url}/start")).status_code == 409


async def test_suspend_and_resume(client: CheckedClient, url: str) -> None:
    assert (await client.post(f"{url}/suspend")).json() == {"ok": True}
    await wait(client, url, "suspended")
    assert (await client.post(f"{url}/start")).json()["previous_state"] == "suspended"
    await wait(client, url, "started")
    kinds = [start["kind"] for start in (await client.get(f"{url}/phases")).json()]
    assert kinds == ["start", "suspend", "start", "create"]


async def test_suspending_a_stopped_machine_is_refused(client: CheckedClient, url: str) -> None:
    await client.post(f"{url}/stop")
    await wait(client, url, "stopped")
    assert (await client.post(f"{url}/suspend")).status_code == 412


@pytest.mark.parametrize(
    "query", ["", "?force_stop=false&timeout=5s&signal=SIGINT", "?timeout=5", "?timeout="]
)
async def test_restart(client: CheckedClient, url: str, query: str) -> None:
    assert (await client.post(f"{url}/restart{query}")).json() == {"ok": True}
    await wait(client, url, "started")


@pytest.mark.parametrize("query", ["timeout=x", "signal=SIGFOO", "force_stop=maybe"])
async def test_restart_refuses(client: CheckedClient, url: str, query: str) -> None:
    answer = await client.post(f"{url}/restart?{query}")
    assert answer.status_code == 400
    assert f"query parameter {query.partition('=')[0]}" in answer.json()["error"]


@pytest.mark.parametrize("given", ["SIGTERM", "SIGKILL", "HUP", 9, 34, "sigusr1"])
async def test_signal_by_name_and_number(client: CheckedClient, url: str, given: str | int) -> None:
    assert (await client.post(f"{url}/signal", json={"signal": given})).json() == {"ok": True}


@pytest.mark.parametrize("given", ["SIGWHAT", 0, 65, -1, "", 10**30])
async def test_no_such_signal(client: CheckedClient, url: str, given: str | int) -> None:
    assert (await client.post(f"{url}/signal", json={"signal": given})).status_code == 400


async def test_signal_needs_a_started_machine(client: CheckedClient, url: str) -> None:
    await client.post(f"{url}/stop")
    await wait(client, url, "stopped")
    assert (await client.post(f"{url}/signal", json={"signal": 9})).status_code == 412


async def test_cordon_and_uncordon(client: CheckedClient, url: str) -> None:
    assert (await client.post(f"{url}/cordon")).json() == {"ok": True}
    assert (await client.get(url)).json()["cordoned"] is True
    assert (await client.post(f"{url}/uncordon")).json() == {"ok": True}
    assert (await client.get(url)).json()["cordoned"] is False


@pytest.mark.parametrize("verb", ["start", "stop", "suspend", "restart", "cordon", "uncordon"])
async def test_a_lease_keeps_others_out(client: CheckedClient, url: str, verb: str) -> None:
    nonce = (await client.post(f"{url}/lease?ttl=60")).json()["data"]["nonce"]
    refused = await client.post(f"{url}/{verb}")
    assert refused.status_code == 409
    assert "lease currently held by" in refused.json()["error"]
    assert refused.json()["code"] == "lease_held"
    headers = {"fly-machine-lease-nonce": nonce}
    assert (await client.post(f"{url}/{verb}", headers=headers)).status_code == 200


async def test_delete_and_update_need_the_nonce_too(client: CheckedClient, url: str) -> None:
    nonce = (await client.post(f"{url}/lease?ttl=60")).json()["data"]["nonce"]
    assert (await client.post(url, json=IMAGE)).status_code == 409
    assert (await client.delete(f"{url}?force=true")).status_code == 409
    headers = {"fly-machine-lease-nonce": nonce}
    assert (await client.delete(f"{url}?force=true", headers=headers)).status_code == 200
