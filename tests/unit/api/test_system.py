"""The server about itself."""

from __future__ import annotations

from typing import cast

import pytest

from midge.api.services import Services
from midge.testing.host import StagedHost
from midge.worker.trace import Traced

from .client import CheckedClient

pytestmark = pytest.mark.anyio


async def test_health_needs_no_token(anonymous: CheckedClient) -> None:
    assert (await anonymous.get("/healthz")).json() == {"status": "ok"}


async def test_ready_lists_its_checks(anonymous: CheckedClient, host: StagedHost) -> None:
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 200
    assert [check["name"] for check in answer.json()["checks"]] == ["serving", "central-store", "worker"]
    host.worker.ready.clear()
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"][2] == {"name": "worker", "ok": False, "reason": "recovering machines"}


async def test_ready_says_that_it_stops(anonymous: CheckedClient, services: Services) -> None:
    services.stopping.set()
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"][0]["reason"] == "shutting down"


async def test_ready_survives_a_broken_store(anonymous: CheckedClient, services: Services) -> None:
    await services.central.database.aclose()
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"][1]["ok"] is False


async def test_metrics_count_requests_machines_and_phases(
    client: CheckedClient, url: str, host: StagedHost
) -> None:
    phases = [("journal", 1.0), ("restore", 3.0), ("exec", 14.0)]
    host.worker.parts.traces.add(Traced("start", ok=True, total_ms=15.0, phases=phases))
    text = (await client.get("/metrics")).text
    get = 'midge_http_requests_total{method="GET",route="/v1/apps/{app_name}/machines/{machine_id}",status="200"}'
    assert f"{get} 1.0" in text
    assert 'midge_machines{state="started"} 1.0' in text
    exec_ = 'midge_start_phase_seconds_sum{driver="mock",path="restore",phase="exec"} 0.011'
    assert exec_ in text  # what it took, not when it had ended
    whole = 'midge_operation_seconds_count{driver="mock",operation="start",path="restore"} 1.0'
    assert whole in text
    assert "midge_host_memory_bytes" in text
    assert "midge_build_info" in text
    assert url.rpartition("/")[2] not in text
    again = (await client.get("/metrics")).text
    assert exec_ in again and whole in again


async def test_every_start_is_counted_once(client: CheckedClient, url: str) -> None:
    await client.get("/metrics")
    for _ in range(2):
        await client.post(f"{url}/stop")
        await client.get(f"{url}/wait?state=stopped&timeout=60")
        await client.post(f"{url}/start")
        await client.get(f"{url}/wait?state=started&timeout=60")
    text = (await client.get("/metrics")).text
    assert 'midge_start_phase_seconds_count{driver="mock",path="cold",phase="exec"} 3.0' in text


async def test_metrics_know_resumes_failures_and_no_more_labels_than_they_have_names(
    client: CheckedClient, services: Services
) -> None:
    traces = cast(StagedHost, services.host).worker.parts.traces
    traces.add(Traced("resume", ok=True, total_ms=30.0, phases=[("parked", 5.0), ("guest", 29.0)]))
    traces.add(Traced("suspend", ok=True, total_ms=20.0, phases=[("save", 19.0)]))
    traces.add(Traced("start", ok=False, total_ms=20.0, phases=[("slot", 1.0)]))
    traces.add(Traced("start", ok=True, total_ms=20.0, phases=[("of-a-driver-of-tomorrow", 1.0)]))
    text = (await client.get("/metrics")).text
    assert 'midge_operation_seconds_count{driver="mock",operation="resume",path="parked"} 1.0' in text
    assert 'midge_resume_phase_seconds_sum{driver="mock",path="parked",phase="guest"} 0.024' in text
    assert 'midge_operation_seconds_count{driver="mock",operation="suspend",path=""} 1.0' in text
    assert 'midge_suspend_phase_seconds_sum{driver="mock",path="",phase="save"} 0.019' in text
    assert 'midge_operations_failed_total{driver="mock",operation="start"} 1.0' in text
    assert 'midge_start_phase_seconds_count{driver="mock",path="cold",phase="other"} 1.0' in text
    assert "of-a-driver-of-tomorrow" not in text


async def test_paths_nobody_routes_are_counted_as_one(client: CheckedClient) -> None:
    for path in ("/a", "/b"):
        await client.get(path)
    text = (await client.get("/metrics")).text
    assert 'midge_http_requests_total{method="",route="",status="404"} 2.0' in text


async def test_version_and_limits(anonymous: CheckedClient) -> None:
    version = (await anonymous.get("/-/version")).json()
    assert version["api"] == "v1"
    assert version["driver"] == "mock"
    limits = (await anonymous.get("/-/limits")).json()
    assert limits["wait_timeout_s"] == 60
    assert all(value > 0 for value in limits.values())


async def test_status_counts(client: CheckedClient, url: str) -> None:
    status = (await client.get("/-/status")).json()
    assert (status["apps"], status["machines"]) == (1, 1)
    assert status["host"]["driver"] == "mock"
    assert status["requests"] > 0


async def test_config_and_tasks_need_the_hosts_token(client: CheckedClient, anonymous: CheckedClient) -> None:
    for path in ("/-/config", "/-/tasks", "/-/status"):
        assert (await anonymous.get(path)).status_code == 401
        assert (await client.get(path)).status_code == 200


async def test_the_description_needs_no_token(anonymous: CheckedClient) -> None:
    document = (await anonymous.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert document["paths"]["/v1/apps/{app_name}/machines/{machine_id}/exec/ws"]["get"][
        "responses"
    ].keys() >= {"101"}


async def test_regions_need_no_token(anonymous: CheckedClient) -> None:
    answer = (await anonymous.get("/v1/platform/regions")).json()
    assert answer["nearest"] == "local"
    assert [region["code"] for region in answer["regions"]] == ["local"]
