"""Machines: create, list, get, update, destroy."""

from __future__ import annotations

from typing import Any

import pytest

from midge.api.services import Services
from midge.errors import NoCapacity
from midge.testing.host import StagedHost

from .client import CheckedClient
from .conftest import IMAGE

pytestmark = pytest.mark.anyio


async def test_create_answers_200_with_a_reserved_machine(client: CheckedClient, app: str) -> None:
    answer = await client.post(app, json={**IMAGE, "name": "one", "skip_secrets": False, "lsvd": True})
    assert answer.status_code == 200
    machine = answer.json()
    assert machine["state"] == "creating"
    assert machine["name"] == "one"
    assert machine["region"] == "local"
    assert machine["instance_id"] == machine["version"]
    assert machine["host_status"] == "ok"
    assert machine["checks"] == []
    assert machine["cordoned"] is False
    assert machine["image_ref"]["repository"] == "library/debian"
    assert machine["config"]["guest"] == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
    assert machine["events"][-1]["type"] == "launch"
    assert machine["created_at"].endswith("Z")
    assert "nonce" not in machine
    assert "lease" not in machine


async def test_the_configuration_is_echoed_with_members_nobody_knows(client: CheckedClient, app: str) -> None:
    config = {"image": "debian", "env": {"A": "b"}, "x_future": {"deep": [1, None, "ü"]}, "init": {}}
    machine = (await client.post(app, json={"config": config})).json()
    assert machine["config"]["x_future"] == {"deep": [1, None, "ü"]}
    assert machine["config"]["env"] == {"A": "b"}


async def test_a_created_machine_starts(client: CheckedClient, machine: dict[str, Any]) -> None:
    assert machine["state"] == "started"
    assert [event["status"] for event in machine["events"]] == ["started", "starting", "created"]


async def test_skip_launch_leaves_it_created(client: CheckedClient, app: str) -> None:
    machine = (await client.post(app, json={**IMAGE, "skip_launch": True})).json()
    settled = await client.get(f"{app}/{machine['id']}/wait?state=settled&timeout=60")
    assert settled.json()["state"] == "created"


async def test_skip_service_registration_cordons(client: CheckedClient, app: str) -> None:
    assert (await client.post(app, json={**IMAGE, "skip_service_registration": True})).json()["cordoned"]


async def test_lease_ttl_at_creation_answers_a_nonce(client: CheckedClient, app: str) -> None:
    machine = (await client.post(app, json={**IMAGE, "lease_ttl": 30, "skip_launch": True})).json()
    assert len(machine["nonce"]) == 12
    refused = await client.post(f"{app}/{machine['id']}/start")
    assert refused.status_code == 409
    assert refused.json()["error"].startswith(f"machine ID {machine['id']} lease currently held by ")
    headers = {"fly-machine-lease-nonce": machine["nonce"]}
    assert (await client.post(f"{app}/{machine['id']}/start", headers=headers)).status_code == 200


async def test_a_name_in_use_answers_409(client: CheckedClient, app: str, machine: dict[str, Any]) -> None:
    answer = await client.post(app, json={**IMAGE, "name": "one"})
    assert answer.status_code == 409
    assert answer.json()["error"] == (
        "already_exists: unique machine name violation, "
        f'machine ID {machine["id"]} already exists with name "one"'
    )


async def test_the_name_of_a_destroyed_machine_is_free(client: CheckedClient, app: str, url: str) -> None:
    assert (await client.delete(f"{url}?force=true")).json() == {"ok": True}
    assert (await client.get(f"{url}/wait?state=destroyed&timeout=60")).status_code == 200
    assert (await client.post(app, json={**IMAGE, "name": "one"})).status_code == 200


async def test_a_failed_create_frees_the_name(client: CheckedClient, app: str, host: StagedHost) -> None:
    host.fail_next = NoCapacity("could not find a candidate host")
    answer = await client.post(app, json={**IMAGE, "name": "one"})
    assert answer.status_code == 422
    assert answer.json()["status"] == "insufficient_capacity"
    assert (await client.post(app, json={**IMAGE, "name": "one"})).status_code == 200


@pytest.mark.parametrize("name", ["-x", "x-", "x" * 64, "a b", "ü", "a/b"])
async def test_a_bad_machine_name_answers_400(client: CheckedClient, app: str, name: str) -> None:
    assert (await client.post(app, json={**IMAGE, "name": name})).status_code == 400


@pytest.mark.parametrize("region", [None, "", "local", "any", "ord,any", "eu", "lhr, local"])
async def test_regions_that_mean_this_host(client: CheckedClient, app: str, region: str | None) -> None:
    answer = await client.post(app, json={**IMAGE, "region": region})
    assert answer.status_code == 200, answer.text
    assert answer.json()["region"] == "local"


async def test_another_region_has_no_host(client: CheckedClient, app: str) -> None:
    answer = await client.post(app, json={**IMAGE, "region": "ord,lhr"})
    assert answer.status_code == 422
    assert answer.json()["error"] == "could not find a candidate host"
    assert answer.json()["status"] == "insufficient_capacity"


async def test_create_needs_an_app(client: CheckedClient) -> None:
    answer = await client.post("/v1/apps/none/machines", json=IMAGE)
    assert answer.status_code == 404
    assert answer.json()["error"] == "app not found"


async def test_get_tells_bad_missing_and_foreign_ids_apart(
    client: CheckedClient, app: str, machine: dict[str, Any]
) -> None:
    bad = await client.get(f"{app}/12345")
    assert (bad.status_code, bad.json()["error"]) == (400, "invalid machine ID, '12345'")
    missing = await client.get(f"{app}/{'1' * 14}")
    assert (missing.status_code, missing.json()["error"]) == (404, "machine not found")
    await client.post("/v1/apps", json={"name": "other"})
    foreign = await client.get(f"/v1/apps/other/machines/{machine['id']}")
    assert (foreign.status_code, foreign.json()["error"]) == (404, "machine not found")
    no_app = await client.get(f"/v1/apps/none/machines/{machine['id']}")
    assert (no_app.status_code, no_app.json()["error"]) == (404, "app not found")


async def test_list_is_an_array_and_filters(client: CheckedClient, app: str) -> None:
    assert (await client.get(app)).json() == []
    for name, metadata in (("a", {"role": "db"}), ("b", {"role": "web", "x": "1"}), ("c", {})):
        config = {"image": "debian", "metadata": metadata}
        body = {"config": config, "name": name, "skip_launch": name == "c"}
        made = (await client.post(app, json=body)).json()["id"]
        wanted = "settled" if name == "c" else "started"
        assert (await client.get(f"{app}/{made}/wait?state={wanted}&timeout=60")).status_code == 200

    async def names(query: str) -> list[str]:
        return sorted(one["name"] for one in (await client.get(f"{app}?{query}")).json())

    assert await names("") == ["a", "b", "c"]
    assert await names("state=created") == ["c"]
    assert await names("state=started,created") == ["a", "b", "c"]
    assert await names("state=started&state=created") == ["a", "b", "c"]
    assert await names("metadata.role=web") == ["b"]
    assert await names("metadata.role=web&metadata.x=2") == []
    assert await names("region=ord") == []
    assert await names("region=local&unknown=1") == ["a", "b", "c"]


async def test_destroyed_machines_are_listed_only_on_request(
    client: CheckedClient, app: str, url: str
) -> None:
    await client.delete(f"{url}?kill=true")
    await client.get(f"{url}/wait?state=destroyed&timeout=60")
    assert (await client.get(app)).json() == []
    assert [one["state"] for one in (await client.get(f"{app}?include_deleted=true")).json()] == ["destroyed"]
    assert (await client.get(url)).json()["state"] == "destroyed"


async def test_summary_leaves_out_the_big_members(client: CheckedClient, app: str, url: str) -> None:
    (summary,) = (await client.get(f"{app}?summary=true")).json()
    assert summary["name"] == "one"
    assert not {"config", "events", "checks", "host_status", "nonce"} & summary.keys()


async def test_include_leases_shows_them_without_the_nonce(client: CheckedClient, app: str, url: str) -> None:
    await client.post(f"{url}/lease?ttl=60")
    (listed,) = (await client.get(f"{app}?include_leases=true")).json()
    assert listed["lease"].keys() == {"owner", "expires_at", "description"}
    assert (await client.get(f"{url}?include_leases=true")).json()["lease"] == listed["lease"]
    assert "lease" not in (await client.get(url)).json()


async def test_limit_pages_through_the_list(client: CheckedClient, app: str) -> None:
    for _ in range(5):
        await client.post(app, json={**IMAGE, "skip_launch": True})
    everything = [one["id"] for one in (await client.get(app)).json()]
    found, cursor = [], ""
    for _ in range(4):
        page = await client.get(f"{app}?limit=2&cursor={cursor}")
        found += [one["id"] for one in page.json()]
        cursor = page.headers.get("fly-next-cursor", "")
        if not cursor:
            break
    assert found == everything
    assert not cursor


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "cursor=abc", "limit=1&cursor=%21", "limit=1&cursor=MTIz"]
)
async def test_bad_paging_answers_400(client: CheckedClient, app: str, query: str) -> None:
    answer = await client.get(f"{app}?{query}")
    assert answer.status_code == 400
    assert "query parameter" in answer.json()["error"]


async def test_update_mints_a_version(client: CheckedClient, url: str, machine: dict[str, Any]) -> None:
    answer = await client.post(url, json={"config": {"image": "debian:13"}, "name": "one", "region": ""})
    updated = answer.json()
    assert updated["state"] == "replacing"
    assert updated["instance_id"] != machine["instance_id"]
    waited = await client.get(f"{url}/wait?state=started&version={updated['version']}&timeout=60")
    assert waited.json()["ok"] is True
    versions = (await client.get(f"{url}/versions")).json()
    assert [one["version"] for one in versions] == [updated["version"], machine["version"]]
    assert versions[1]["user_config"]["image"] == "debian:12"
    old = (await client.get(f"{url}?version={machine['version']}")).json()
    assert (old["state"], old["config"]["image"]) == ("replaced", "debian:12")
    current = (await client.get(f"{url}?version={updated['version']}")).json()
    assert current["state"] == "started"
    assert (await client.get(f"{url}?version=unknown")).status_code == 404


async def test_update_checks_the_current_version(client: CheckedClient, url: str) -> None:
    answer = await client.post(url, json={**IMAGE, "current_version": "01ARZ3NDEKTSV4RRFFQ69G5FAV"})
    assert answer.status_code == 409


@pytest.mark.parametrize(("field", "value"), [("name", "two"), ("region", "ord")])
async def test_update_cannot_rename_or_move(client: CheckedClient, url: str, field: str, value: str) -> None:
    answer = await client.post(url, json={**IMAGE, field: value})
    assert answer.status_code == 400
    assert f"$.{field}" in answer.json()["error"]


async def test_a_stopped_machine_stays_stopped_after_an_update(client: CheckedClient, url: str) -> None:
    await client.post(f"{url}/stop")
    await client.get(f"{url}/wait?state=stopped&timeout=60")
    await client.post(url, json=IMAGE)
    assert (await client.get(f"{url}/wait?state=settled&timeout=60")).json()["state"] == "stopped"


async def test_destroying_a_running_machine_needs_force(client: CheckedClient, url: str) -> None:
    answer = await client.delete(f"{url}?kill=false")
    assert answer.status_code == 412
    assert answer.json()["error"] == (
        "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created"
    )
    assert answer.json()["hint"]
    assert (await client.delete(f"{url}?kill=true")).status_code == 200


async def test_no_machine_of_a_deleted_app_survives_its_creation(
    client: CheckedClient, app: str, host: StagedHost, services: Services
) -> None:
    created = host.create

    async def create_while_the_app_goes(request: Any) -> Any:
        record = await services.central.apps.get("web")
        await services.central.apps.begin_delete(record)
        await services.central.apps.finish_delete(record)
        return await created(request)

    host.create = create_while_the_app_goes  # type: ignore[method-assign]  # the race, made to happen
    assert (await client.post(app, json=IMAGE)).status_code == 404
    assert all(view.state in ("destroying", "destroyed") for view in host.list(include_deleted=True))


async def test_a_name_is_held_while_its_create_is_under_way(
    client: CheckedClient, app: str, services: Services
) -> None:
    record = await services.central.apps.get("web")
    await services.central.machines.reserve(record, "1" * 14, "one", region="local", host="fake")
    answer = await client.post(app, json={**IMAGE, "name": "one"})
    assert (answer.status_code, "1" * 14 in answer.json()["error"]) == (409, True)


async def test_a_create_that_lost_its_reservation_leaves_no_machine(
    client: CheckedClient, app: str, host: StagedHost, services: Services
) -> None:
    created = host.create

    async def create_while_the_reservation_goes(request: Any) -> Any:
        await services.central.machines.drop(request.id)
        return await created(request)

    host.create = create_while_the_reservation_goes  # type: ignore[method-assign]  # the race, made to happen
    assert (await client.post(app, json=IMAGE)).status_code == 409
    assert all(view.state in ("destroying", "destroyed") for view in host.list(include_deleted=True))
