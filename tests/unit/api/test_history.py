"""Events, versions, processes and phases; machines of an organization."""

from __future__ import annotations

from typing import Any

import pytest

from .client import CheckedClient
from .conftest import IMAGE

pytestmark = pytest.mark.anyio


async def test_events_come_newest_first(client: CheckedClient, url: str) -> None:
    events = (await client.get(f"{url}/events")).json()
    assert [event["id"] for event in events] == sorted((event["id"] for event in events), reverse=True)
    assert len((await client.get(f"{url}/events?limit=1")).json()) == 1
    assert (await client.get(f"{url}/events?limit=500")).status_code == 200
    assert (await client.get(f"{url}/events?limit=0")).status_code == 400


async def test_processes_have_sockets(client: CheckedClient, url: str) -> None:
    (process,) = (await client.get(f"{url}/ps?sort_by=rss&order=desc")).json()
    assert process["listen_sockets"] == [{"proto": "tcp", "address": "0.0.0.0:8080"}]
    assert (await client.get(f"{url}/ps?sort_by=nothing")).status_code == 400


async def test_stats_and_phases(client: CheckedClient, url: str) -> None:
    found = (await client.get(f"{url}/stats")).json()
    assert found == {"memory": {"used_bytes": 0}, "cpu": {"used_ns": 0}}  # as the driver says it
    (start,) = (await client.get(f"{url}/phases?limit=1")).json()
    assert [name for name, _ in start["phases"]] == ["admission", "journal", "exec"]


async def test_machines_of_an_organization_are_paged(client: CheckedClient, app: str) -> None:
    for name in ("a", "b", "c"):
        await client.post(app, json={**IMAGE, "name": name, "skip_launch": True})
    await client.post("/v1/apps", json={"name": "other"})
    await client.post("/v1/apps/other/machines", json={**IMAGE, "name": "d", "skip_launch": True})
    found: list[dict[str, Any]] = []
    cursor = ""
    for _ in range(5):
        page = (await client.get(f"/v1/orgs/personal/machines?limit=3&cursor={cursor}")).json()
        found += page["machines"]
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert [one["name"] for one in found] == ["a", "b", "c", "d"]
    assert found[3]["app_name"] == "other"
    assert found[0]["config"]["image"] == "debian:12"
    assert page["last_machine_id"] == found[3]["id"]
    summary = (await client.get("/v1/orgs/personal/machines?summary=true")).json()["machines"][0]
    assert "config" not in summary


@pytest.mark.parametrize(("after", "count"), [("2020-01-01T00:00:00Z", 1), ("2120-01-01T00:00:00+01:00", 0)])
async def test_updated_after(client: CheckedClient, url: str, after: str, count: int) -> None:
    answer = await client.get("/v1/orgs/personal/machines", params={"updated_after": after})
    assert len(answer.json()["machines"]) == count


@pytest.mark.parametrize(
    "query", ["updated_after=yesterday", "updated_after=2020-01-01T00:00:00", "cursor=x", "limit=1001"]
)
async def test_bad_parameters(client: CheckedClient, query: str) -> None:
    assert (await client.get(f"/v1/orgs/personal/machines?{query}")).status_code == 400


async def test_an_unknown_organization(client: CheckedClient) -> None:
    assert (await client.get("/v1/orgs/nobody/machines")).status_code == 404
