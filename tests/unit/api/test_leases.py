"""Leases: taken, extended, refused, given back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from .client import CheckedClient

pytestmark = pytest.mark.anyio
NONCE = "fly-machine-lease-nonce"


async def test_a_lease_is_wrapped(client: CheckedClient, url: str, machine: dict[str, Any]) -> None:
    asked_s = time.time()
    answer = await client.post(f"{url}/lease?ttl=120")
    assert answer.status_code == 201
    assert answer.json()["status"] == "success"
    lease = answer.json()["data"]
    assert len(lease["nonce"]) == 12
    assert lease["version"] == machine["instance_id"]
    assert lease["owner"].endswith("@tokens.midge")
    assert asked_s + 119 <= lease["expires_at"] <= time.time() + 121
    assert (await client.get(f"{url}/lease")).json() == answer.json()


async def test_ttl_and_description_in_the_body(client: CheckedClient, url: str) -> None:
    asked_s = time.time()
    lease = (await client.post(f"{url}/lease", json={"ttl": 60, "description": "deploy"})).json()["data"]
    assert lease["description"] == "deploy"
    assert asked_s + 59 <= lease["expires_at"] <= time.time() + 61


async def test_the_default_is_half_a_minute(client: CheckedClient, url: str) -> None:
    asked_s = time.time()
    lease = (await client.post(f"{url}/lease")).json()["data"]
    assert asked_s + 29 <= lease["expires_at"] <= time.time() + 31


async def test_the_holder_extends(client: CheckedClient, url: str) -> None:
    first = (await client.post(f"{url}/lease?ttl=10")).json()["data"]
    again = await client.post(f"{url}/lease?ttl=100", headers={NONCE: first["nonce"]})
    assert again.json()["data"]["nonce"] == first["nonce"]
    assert again.json()["data"]["expires_at"] > first["expires_at"]


async def test_others_are_refused(client: CheckedClient, url: str) -> None:
    await client.post(f"{url}/lease?ttl=60")
    answer = await client.post(f"{url}/lease?ttl=60")
    assert answer.status_code == 409
    assert "lease currently held by" in answer.json()["error"]


async def test_release(client: CheckedClient, url: str) -> None:
    nonce = (await client.post(f"{url}/lease?ttl=60")).json()["data"]["nonce"]
    assert (await client.delete(f"{url}/lease", headers={NONCE: "0" * 12})).status_code == 409
    assert (await client.delete(f"{url}/lease")).status_code == 400
    released = await client.delete(f"{url}/lease", headers={NONCE: nonce})
    assert released.json() == {"status": "success", "data": {"ok": True}}
    gone = await client.get(f"{url}/lease")
    assert (gone.status_code, gone.json()["error"]) == (404, "lease not found")
    again = await client.delete(f"{url}/lease", headers={NONCE: nonce})
    assert (again.status_code, again.json()["error"]) == (404, "lease not found")


@pytest.mark.parametrize("query", ["ttl=-1", "ttl=x", "ttl=86401"])
async def test_bad_ttl(client: CheckedClient, url: str, query: str) -> None:
    assert (await client.post(f"{url}/lease?{query}")).status_code == 400
