"""What a machine printed, as lines of JSON and as it was printed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from midge.api.logs import since
from midge.errors import InvalidInput
from midge.testing.host import StagedHost
from tests.deadlines import PATIENCE_S

from .client import CheckedClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def printed(machine: dict[str, Any], host: StagedHost) -> str:
    """The id of a machine that has printed three lines."""
    machine_id: str = machine["id"]
    host.print(machine_id, b"one")
    host.print(machine_id, b"two", "stderr")
    host.print(machine_id, b"thr", complete=False)
    host.print(machine_id, b"ee \xff\xc3\xbc")
    return machine_id


async def lines(client: CheckedClient, url: str) -> list[dict[str, Any]]:
    answer = await client.get(url)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.content.splitlines()]


async def test_all_of_it_oldest_first(client: CheckedClient, url: str, printed: str) -> None:
    found = await lines(client, f"{url}/logs")
    assert [(line["stream"], line["message"]) for line in found] == [
        ("stdout", "one"),
        ("stderr", "two"),
        ("stdout", "thr"),
        ("stdout", "ee \udcffü"),
    ]
    assert [line.get("partial", False) for line in found] == [False, False, True, False]
    assert found[0]["timestamp"].endswith("Z")
    assert len(found[0]["timestamp"]) == len("2026-11-21T10:00:00.123456789Z")


async def test_bytes_survive_the_json(client: CheckedClient, url: str, printed: str) -> None:
    last = (await lines(client, f"{url}/logs"))[-1]["message"]
    assert last.encode("utf-8", "surrogateescape") == b"ee \xff\xc3\xbc"


async def test_as_it_was_printed(client: CheckedClient, url: str, printed: str) -> None:
    answer = await client.get(f"{url}/logs", headers={"accept": "text/plain"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.content == b"one\ntwo\nthree \xff\xc3\xbc\n"


@pytest.mark.parametrize(
    ("query", "messages"),
    [
        ("tail=2", ["thr", "ee \udcffü"]),
        ("tail=0", []),
        ("stream=stderr", ["two"]),
        ("stream=stdout&tail=1", ["ee \udcffü"]),
        ("stream=stderr&tail=5", ["two"]),
        ("since=10m&tail=1", ["ee \udcffü"]),
        ("since=2120-01-01T00:00:00Z", []),
        ("since=2020-01-01T00:00:00%2B01:00&stream=stderr", ["two"]),
    ],
)
async def test_parts_of_it(
    client: CheckedClient, url: str, printed: str, query: str, messages: list[str]
) -> None:
    assert [line["message"] for line in await lines(client, f"{url}/logs?{query}")] == messages


async def test_since_is_exclusive(client: CheckedClient, url: str, printed: str) -> None:
    everything = await lines(client, f"{url}/logs")
    later = await lines(client, f"{url}/logs?since={everything[1]['timestamp']}")
    assert later == everything[2:]


async def test_a_machine_that_never_printed(client: CheckedClient, url: str) -> None:
    assert await lines(client, f"{url}/logs") == []
    assert await lines(client, f"{url}/logs?tail=5") == []


@pytest.mark.parametrize(
    "query", ["tail=-1", "tail=10001", "since=soon", "stream=both", "since=2020-13-01T00:00:00Z"]
)
async def test_refusals(client: CheckedClient, url: str, query: str) -> None:
    assert (await client.get(f"{url}/logs?{query}")).status_code == 400


async def test_following_ends_with_the_machine(
    client: CheckedClient, url: str, printed: str, host: StagedHost
) -> None:
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        following = group.create_task(lines(client, f"{url}/logs?follow=true&stream=stdout"))
        await asyncio.sleep(0)
        host.print(printed, b"four")
        host.driver.hold()
        await client.delete(f"{url}?force=true")
        host.print(printed, b"last words")
        host.driver.release()
    messages = [line["message"] for line in following.result()]
    assert messages == ["one", "thr", "ee \udcffü", "four", "last words"]


async def test_following_waits_for_the_first_line(
    client: CheckedClient, url: str, machine: dict[str, Any], host: StagedHost
) -> None:
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        following = group.create_task(lines(client, f"{url}/logs?follow=true"))
        await asyncio.sleep(0)
        host.print(machine["id"], b"first")
        await client.delete(f"{url}?force=true")
    assert [line["message"] for line in following.result()] == ["first"]


async def test_flyctl_polls_with_a_token(
    client: CheckedClient, url: str, printed: str, host: StagedHost
) -> None:
    first = (await client.get("/api/v1/apps/web/logs?instance=&region=")).json()
    assert [entry["attributes"]["message"] for entry in first["data"]] == ["one", "two", "thr", "ee \ufffdü"]
    assert first["data"][0]["attributes"]["instance"] == printed
    token = first["meta"]["next_token"]
    again = (await client.get(f"/api/v1/apps/web/logs?next_token={token}")).json()
    assert again == {"data": [], "meta": {"next_token": token}}
    host.print(printed, b"five")
    later = (await client.get(f"/api/v1/apps/web/logs?next_token={token}&instance={printed}")).json()
    assert [entry["attributes"]["message"] for entry in later["data"]] == ["five"]
    assert (await client.get("/api/v1/apps/web/logs?next_token=x")).status_code == 400


def test_since_reads_nanoseconds() -> None:
    assert since("1970-01-01T00:00:01.000000002Z") == 1_000_000_002
    assert since("1970-01-01t01:00:00.5+01:00") == 500_000_000
    assert since("") is None
    with pytest.raises(InvalidInput):
        since("١970-01-01T00:00:00Z")
