"""Waiting for states: at once, in time, too late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from midge.api.services import Services
from midge.ids import new_ulid
from midge.testing.host import StagedHost

from .client import CheckedClient

pytestmark = pytest.mark.anyio


async def test_answers_at_once_when_it_is_so(
    client: CheckedClient, url: str, machine: dict[str, Any]
) -> None:
    answer = (await client.get(f"{url}/wait")).json()
    assert answer == {
        "ok": True,
        "state": "started",
        "version": machine["version"],
        "event_id": "",  # no event was waited for
    }


async def test_answers_when_the_state_comes(client: CheckedClient, url: str, host: StagedHost) -> None:
    host.driver.hold()
    await client.post(f"{url}/stop")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(
            client.get(f"{url}/wait?state=suspended&state=stopped,destroyed&timeout=60")
        )
        await asyncio.sleep(0)
        host.driver.release()
    assert waiting.result().json()["state"] == "stopped"


@pytest.mark.slow
async def test_times_out_with_408_and_the_text_clients_match(client: CheckedClient, url: str) -> None:
    answer = await client.get(f"{url}/wait?state=stopped&timeout=1")
    assert answer.status_code == 408
    assert answer.json()["error"] == (
        "deadline_exceeded: machine failed to reach desired state, stopped, currently started"
    )


@pytest.mark.parametrize("timeout", ["0", "61", "0s", "2m", "-5"])
async def test_timeout_out_of_range(client: CheckedClient, url: str, timeout: str) -> None:
    answer = await client.get(f"{url}/wait?timeout={timeout}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("invalid_argument: ")


async def test_timeout_text(client: CheckedClient, url: str) -> None:
    answer = await client.get(f"{url}/wait?timeout=61")
    assert answer.json()["error"].endswith("value must be inside range [1s, 1m0s]")
    assert answer.json()["hint"] == "for longer, wait 60 seconds and ask again"


async def test_unknown_states_are_refused(client: CheckedClient, url: str) -> None:
    answer = await client.get(f"{url}/wait?state=started,running")
    assert answer.status_code == 400
    assert "'running'" in answer.json()["error"]


async def test_another_version_is_not_meant(client: CheckedClient, url: str, machine: dict[str, Any]) -> None:
    for parameter in ("version", "instance_id"):
        same = await client.get(f"{url}/wait?{parameter}={machine['version']}&timeout=60")
        assert same.status_code == 200


@pytest.mark.parametrize("parameter", ["version", "instance_id", "from_event_id"])
async def test_an_id_that_is_none_is_refused_at_once(client: CheckedClient, url: str, parameter: str) -> None:
    for given in ("zz", "8" * 26, "0" * 27, "01hepa330hz37a78tk080nak1m"):
        answer = await client.get(f"{url}/wait?state=stopped&{parameter}={given}&timeout=60")
        assert answer.status_code == 400
        assert f"query parameter {parameter}: not an id" in answer.json()["error"]


async def test_a_version_nobody_made_answers_404(client: CheckedClient, url: str) -> None:
    answer = await client.get(f"{url}/wait?version={new_ulid()}&timeout=60")
    assert answer.status_code == 404
    assert "has no version" in answer.json()["error"]


async def test_a_missing_machine_answers_404(client: CheckedClient, app: str) -> None:
    assert (await client.get(f"{app}/{'a' * 14}/wait?state=destroyed")).status_code == 404


async def test_a_wait_ends_when_the_server_stops(client: CheckedClient, url: str, services: Services) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(client.http.get(f"{url}/wait?state=stopped&timeout=60"))
        await asyncio.sleep(0)
        services.stopping.set()
    assert waiting.result().status_code == 503
    assert waiting.result().headers["retry-after"] == "1"
