"""Apps, as Fly's clients create, look for and delete them."""

from __future__ import annotations

import pytest

from midge.api.services import Services

from .client import CheckedClient
from .conftest import IMAGE

pytestmark = pytest.mark.anyio


async def test_an_app_is_created_and_found(client: CheckedClient) -> None:
    body = {"name": "web", "org_slug": "personal", "network": "", "app_role_id": ""}
    created = await client.post("/v1/apps?wait=true", json=body)
    assert created.status_code == 201
    found = (await client.get("/v1/apps/web")).json()
    assert found == created.json()
    assert found["name"] == "web"
    assert found["status"] == "pending"
    assert found["network"] == "default"
    assert found["organization"]["slug"] == "personal"
    assert found["created_at"] > 1_700_000_000_000


async def test_older_clients_say_app_name(client: CheckedClient) -> None:
    assert (await client.post("/v1/apps", json={"app_name": "old"})).json()["name"] == "old"


async def test_a_name_is_made_up_when_none_is_given(client: CheckedClient) -> None:
    first = (await client.post("/v1/apps", json={"org_slug": "personal"})).json()["name"]
    second = (await client.post("/v1/apps")).json()["name"]
    assert first and second and first != second


async def test_a_taken_name_answers_422_name_taken(client: CheckedClient, app: str) -> None:
    answer = await client.post("/v1/apps", json={"name": "web", "org_slug": "personal"})
    assert answer.status_code == 422
    assert answer.json()["error"] == "Validation failed: Name has already been taken"
    assert answer.json()["status"] == "name_taken"


@pytest.mark.parametrize("name", ["Web", "we_b", "-web", "web-", "a" * 63, "web.", "ünter", " web", "we b"])
async def test_a_bad_name_answers_422(client: CheckedClient, name: str) -> None:
    answer = await client.post("/v1/apps", json={"name": name, "org_slug": "personal"})
    assert answer.status_code == 422
    assert (
        answer.json()["error"]
        == "Validation failed: Name under 63 chars using numbers, lowercase letters and dashes"
    )


async def test_a_name_of_62_characters_is_fine(client: CheckedClient) -> None:
    assert (await client.post("/v1/apps", json={"name": "a" * 62})).status_code == 201


async def test_a_missing_app_answers_404_app_not_found(client: CheckedClient) -> None:
    answer = await client.get("/v1/apps/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"] == "app not found"


async def test_list_needs_an_organization(client: CheckedClient, app: str) -> None:
    assert (await client.get("/v1/apps")).status_code == 400
    assert (await client.get("/v1/apps?org_slug=nobody")).status_code == 404
    listed = (await client.get("/v1/apps?org_slug=personal")).json()
    assert listed["total_apps"] == 1
    assert [one["name"] for one in listed["apps"]] == ["web"]


async def test_an_empty_list_is_an_array(client: CheckedClient) -> None:
    assert (await client.get("/v1/apps?org_slug=personal")).json() == {"total_apps": 0, "apps": []}


async def test_list_filters_by_role(client: CheckedClient) -> None:
    await client.post("/v1/apps", json={"name": "pg", "app_role_id": "postgres_cluster"})
    await client.post("/v1/apps", json={"name": "web"})
    listed = (await client.get("/v1/apps?org_slug=personal&app_role=postgres_cluster")).json()
    assert [one["name"] for one in listed["apps"]] == ["pg"]


async def test_an_app_counts_its_machines(client: CheckedClient, app: str) -> None:
    await client.post(app, json=IMAGE)
    found = (await client.get("/v1/apps/web")).json()
    assert found["machine_count"] == 1
    assert found["status"] == "deployed"


async def test_deleting_an_app_destroys_its_machines(
    client: CheckedClient, app: str, services: Services
) -> None:
    created = (await client.post(app, json={**IMAGE, "lease_ttl": 60})).json()
    assert (await client.delete("/v1/apps/web")).status_code == 202
    assert (await client.get("/v1/apps/web")).status_code == 404
    assert (await client.get(f"{app}/{created['id']}")).json()["error"] == "app not found"
    assert services.host.get(created["id"]).state in ("destroying", "destroyed")
    assert (await client.post("/v1/apps", json={"name": "web"})).status_code == 201


async def test_deleting_a_missing_app_answers_404(client: CheckedClient) -> None:
    assert (await client.delete("/v1/apps/web?force=true")).status_code == 404


async def test_an_idempotency_key_returns_the_first_app(client: CheckedClient) -> None:
    first = (await client.post("/v1/apps", json={"idempotency_key": "k"})).json()
    again = await client.post("/v1/apps", json={"idempotency_key": "k"})
    assert again.status_code == 201
    assert again.json()["id"] == first["id"]
    same = await client.post("/v1/apps", json={"idempotency_key": "k", "name": first["name"]})
    assert same.json()["id"] == first["id"]
    other = await client.post("/v1/apps", json={"idempotency_key": "k", "name": "other"})
    assert other.status_code == 409


async def test_a_deploy_token_reaches_its_app_only(
    client: CheckedClient, services: Services, app: str
) -> None:
    await client.post("/v1/apps", json={"name": "other"})
    answer = await client.post("/v1/apps/web/deploy_token", json={"expiry": "999999h"})
    token = answer.json()["token"]
    assert token.startswith("mdg_")
    limited = CheckedClient(services, token)
    assert (await limited.get("/v1/apps/web")).status_code == 200
    assert (await limited.post(app, json=IMAGE)).status_code == 200
    refused = await limited.get("/v1/apps/other")
    assert refused.status_code == 403
    assert refused.json()["error"] == "unauthorized"
    assert (await limited.get("/v1/apps/other/machines")).status_code == 403
    assert (await limited.post("/v1/apps", json={"name": "third"})).status_code == 403
    assert (await limited.get("/v1/apps/free")).status_code == 404
    listed = (await limited.get("/v1/apps?org_slug=personal")).json()
    assert [one["name"] for one in listed["apps"]] == ["web"]
    current = (await limited.get("/v1/tokens/current")).json()["tokens"][0]
    assert current["apps"] == ["web"]
    assert (await limited.get("/-/config")).status_code == 403
    await limited.aclose()


async def test_a_deploy_token_expires(client: CheckedClient, services: Services, app: str) -> None:
    token = (await client.post("/v1/apps/web/deploy_token", json={"expiry": "1ms"})).json()["token"]
    limited = CheckedClient(services, token)
    for _ in range(1000):
        answer = await limited.get("/v1/apps/web")
        if answer.status_code == 401:
            break
    assert answer.status_code == 401
    await limited.aclose()
