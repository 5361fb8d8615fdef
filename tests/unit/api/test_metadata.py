"""Metadata: merged, removed, read, and never a reason for a new version."""

from __future__ import annotations

from typing import Any

import pytest

from .client import CheckedClient

pytestmark = pytest.mark.anyio


async def test_keys_come_and_go(client: CheckedClient, url: str, machine: dict[str, Any]) -> None:
    assert (await client.get(f"{url}/metadata")).json() == {}
    for method in ("PUT", "PATCH"):
        body = {"metadata": {"a": "1", "b": "2", "c": None}}
        assert (await client.request(method, f"{url}/metadata", json=body)).status_code == 204
    assert (await client.get(f"{url}/metadata")).json() == {"a": "1", "b": "2"}
    await client.patch(f"{url}/metadata", json={"metadata": {"a": "", "b": None, "d": "4"}})
    assert (await client.get(f"{url}/metadata")).json() == {"d": "4"}
    assert (await client.get(url)).json()["version"] == machine["version"]


async def test_one_key(client: CheckedClient, url: str) -> None:
    key = f"{url}/metadata/fly%2Fgroup"
    assert (await client.post(key, json={"value": "app"})).status_code == 204
    assert (await client.get(key)).json() == {"value": "app"}
    assert (await client.get(f"{url}/metadata")).json() == {"fly/group": "app"}
    assert (await client.delete(key)).status_code == 204
    assert (await client.get(key)).status_code == 404
    assert (await client.delete(key)).status_code == 204


async def test_a_version_guards_the_change(client: CheckedClient, url: str, machine: dict[str, Any]) -> None:
    body = {"metadata": {"a": "1"}, "machine_version": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}
    assert (await client.patch(f"{url}/metadata", json=body)).status_code == 412
    body["machine_version"] = machine["version"]
    assert (await client.patch(f"{url}/metadata", json=body)).status_code == 204


async def test_no_lease_is_asked_for(client: CheckedClient, url: str) -> None:
    await client.post(f"{url}/lease?ttl=60")
    assert (await client.post(f"{url}/metadata/a", json={"value": "1"})).status_code == 204


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"metadata": {"a": 1}}, "$.metadata.a: expected str | null, got int"),
        ({"metadata": {"": "x"}}, "a metadata key"),
        ({"metadata": {"k" * 257: "x"}}, "a metadata key"),
        ({"metadata": {f"k{n}": "x" for n in range(257)}}, "$.metadata: more than 256 keys"),
        ({"metadata": {"k": "v" * 20_000}}, "$.metadata.k"),
        ({}, "$: object missing required field metadata"),
    ],
)
async def test_refusals(client: CheckedClient, url: str, body: dict[str, Any], text: str) -> None:
    answer = await client.patch(f"{url}/metadata", json=body)
    assert answer.status_code == 400
    assert text in answer.json()["error"]
