"""Images over the API, with the real store and the mock driver."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from midge.api import images as images_api
from midge.cli.host import open_local_host
from midge.testing.images import build_docker_archive
from midge.testing.server import running_server
from tests.loopback import DIRECT

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
NAME = "docker.io/library/tiny:1"


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async with (
        running_server(tmp_path / "data", open_host=open_local_host, driver="mock") as server,
        httpx2.AsyncClient(
            base_url=server.url, headers={"authorization": server.token}, timeout=60, **DIRECT
        ) as client,
    ):
        yield client


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    path = build_docker_archive(tmp_path / "tiny.tar", layers=[{"etc/tiny": b"x" * 100_000}], tag=NAME)
    return path.read_bytes()


def lines(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.content.splitlines()]


async def test_an_archive_becomes_a_machine_and_goes_again(http: httpx2.AsyncClient, archive: bytes) -> None:
    imported = lines(await http.post("/v1/images/import", content=archive))
    (image,) = imported[-1]["images"]
    (listed,) = (await http.get("/v1/images")).json()
    assert listed["digest"] == image["digest"]
    assert listed["references"] == ["tiny:1"]
    await http.post("/v1/apps", json={"name": "web"})
    created = await http.post("/v1/apps/web/machines", json={"config": {"image": "tiny:1"}})
    assert created.status_code == 200, created.text
    assert created.json()["image_ref"]["digest"] == image["digest"]
    url = f"/v1/apps/web/machines/{created.json()['id']}"
    assert (await http.get(f"{url}/wait?state=started&timeout=60")).status_code == 200
    assert (await http.delete("/v1/images/docker.io/library/tiny:1")).status_code == 409
    assert (await http.post("/v1/images/prune?all=true")).json()["deleted"] == []
    await http.delete(f"{url}?force=true")
    assert (await http.get(f"{url}/wait?state=destroyed&timeout=60")).status_code == 200
    removed = (await http.delete("/v1/images", params={"reference": "tiny:1"})).json()
    assert removed["deleted"] == [image["digest"]]
    assert (await http.get("/v1/images")).json() == []


async def test_an_import_can_be_named(http: httpx2.AsyncClient, archive: bytes) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(archive), 10_000):
            yield archive[start : start + 10_000]

    answer = await http.post("/v1/images/import?name=other:2", content=pieces())
    assert lines(answer)[-1]["images"][0]["reference"].endswith("library/other:2")


async def test_no_upload_is_left_behind(http: httpx2.AsyncClient, archive: bytes, tmp_path: Path) -> None:
    await http.post("/v1/images/import", content=archive)
    broken = await http.post("/v1/images/import", content=b"not an archive" * 1000)
    assert broken.status_code == 400
    assert (await http.post("/v1/images/import", content=b"")).status_code == 400
    assert list((tmp_path / "data" / "uploads").iterdir()) == []


async def test_an_upload_over_the_limit_is_refused(
    http: httpx2.AsyncClient, archive: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(images_api, "UPLOAD_BYTES_MAX", 1000)
    assert (await http.post("/v1/images/import", content=archive)).status_code == 413
    assert list((tmp_path / "data" / "uploads").iterdir()) == []


@pytest.mark.parametrize(("reference", "status"), [("", 400), ("a b", 400), ("localhost:1/nothing", 503)])
async def test_a_pull_that_fails_at_once_has_its_status(
    http: httpx2.AsyncClient, reference: str, status: int
) -> None:
    answer = await http.post("/v1/images/pull", json={"reference": reference})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


async def test_removing_what_is_not_there(http: httpx2.AsyncClient) -> None:
    assert (await http.delete("/v1/images/nothing:1")).status_code == 404
    assert (await http.delete("/v1/images")).status_code == 400


async def test_images_are_the_hosts_and_not_an_apps(http: httpx2.AsyncClient) -> None:
    await http.post("/v1/apps", json={"name": "web"})
    token = (await http.post("/v1/apps/web/deploy_token")).json()["token"]
    headers = {"authorization": token}
    assert (await http.get("/v1/images", headers=headers)).status_code == 200
    for method, url in (
        ("POST", "/v1/images/prune"),
        ("DELETE", "/v1/images/a:1"),
        ("POST", "/v1/images/import"),
    ):
        answer = await http.request(method, url, headers=headers)
        assert answer.status_code == 403, url
