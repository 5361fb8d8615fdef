from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from midge.api.metrics import Metrics
from midge.api.services import Services
from midge.central.store import Central
from midge.testing.host import StagedHost, staged_host

from .client import CheckedClient

IMAGE = {"config": {"image": "debian:12"}}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[StagedHost]:
    async with staged_host(tmp_path / "host") as staged:
        yield staged


@pytest.fixture
async def services(tmp_path: Path, host: StagedHost) -> AsyncIterator[Services]:
    async with Central(tmp_path / "central.db") as central:
        yield Services(
            central=central, host=host, region="local", metrics=Metrics(), upload_dir=tmp_path / "uploads"
        )


@pytest.fixture
async def client(services: Services) -> AsyncIterator[CheckedClient]:
    token = await services.central.tokens.create("root")
    checked = CheckedClient(services, token)
    yield checked
    await checked.aclose()


@pytest.fixture
async def anonymous(services: Services) -> AsyncIterator[CheckedClient]:
    checked = CheckedClient(services, "")
    yield checked
    await checked.aclose()


@pytest.fixture
async def app(client: CheckedClient) -> str:
    """An app called ``web``, by its machines' URL."""
    assert (await client.post("/v1/apps", json={"name": "web", "org_slug": "personal"})).status_code == 201
    return "/v1/apps/web/machines"


@pytest.fixture
async def machine(client: CheckedClient, app: str) -> dict[str, Any]:
    """A started machine."""
    created = (await client.post(app, json={**IMAGE, "name": "one"})).json()
    waited = await client.get(f"{app}/{created['id']}/wait?state=started&timeout=60")
    assert waited.status_code == 200, waited.text
    found: dict[str, Any] = (await client.get(f"{app}/{created['id']}")).json()
    return found


@pytest.fixture
def url(app: str, machine: dict[str, Any]) -> str:
    """The URL of the started machine."""
    return f"{app}/{machine['id']}"
