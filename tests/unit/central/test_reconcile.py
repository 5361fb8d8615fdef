"""Records follow what the host has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from midge.central import reconcile as reconciling
from midge.central.apps import App
from midge.central.machines import RESERVATION_TTL_S
from midge.central.reconcile import reconcile
from midge.central.store import Central
from midge.ids import new_machine_id
from midge.machine.config import MachineConfig
from midge.server.inventory import HostInventory
from midge.testing.fake_clock import FakeClock
from midge.testing.host import StagedHost, staged_host
from midge.worker.host import CreateMachine
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio
CONFIG = {"image": "debian"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def central(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Central]:
    async with Central(tmp_path / "central.db", clock=clock) as opened:
        yield opened


@pytest.fixture
async def app(central: Central) -> App:
    return await central.apps.create(await central.organizations.get("personal"), "web", network="default")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[StagedHost]:
    async with staged_host(tmp_path / "host") as staged:
        yield staged


async def create(host: StagedHost, name: str, app: str = "web") -> str:
    view = await host.create(
        CreateMachine(
            id=new_machine_id(),
            app=app,
            name=name,
            region="local",
            config=msgspec.convert(CONFIG, MachineConfig),
            config_json=msgspec.json.encode(CONFIG),
            skip_launch=True,
        )
    )
    await host.wait(view.id, states=("created",), timeout_s=PATIENCE_S)
    return view.id


async def test_a_reservation_without_a_machine_frees_its_name_when_it_ends(
    central: Central, app: App, clock: FakeClock, host: StagedHost
) -> None:
    await central.machines.reserve(app, "1" * 14, "one", region="local", host="local")
    clock.advance(RESERVATION_TTL_S - 1)
    assert await reconcile(central, HostInventory(host)) == (0, 0)
    clock.advance(1)
    assert await reconcile(central, HostInventory(host)) == (1, 0)
    assert await central.machines.reserve(app, "2" * 14, "one", region="local", host="local") is None


async def test_a_record_without_a_machine_frees_its_name(
    central: Central, app: App, host: StagedHost
) -> None:
    await central.machines.reserve(app, "1" * 14, "one", region="local", host="local")
    await central.machines.confirm("1" * 14, "sha256:x")
    assert await reconcile(central, HostInventory(host)) == (1, 0)
    assert await central.machines.reserve(app, "2" * 14, "one", region="local", host="local") is None


async def test_a_machine_whose_create_was_cut_short_is_confirmed(
    central: Central, app: App, clock: FakeClock, host: StagedHost
) -> None:
    machine_id = await create(host, "one")
    await central.machines.reserve(app, machine_id, "one", region="local", host="local")
    clock.advance(RESERVATION_TTL_S)
    assert await reconcile(central, HostInventory(host)) == (0, 0)
    record = await central.machines.find(machine_id)
    assert record is not None and record.reserved_until_ms is None
    assert record.digest == host.get(machine_id).image_ref.digest


async def test_reservations_of_the_process_before_have_ended(tmp_path: Path, host: StagedHost) -> None:
    async with Central(tmp_path / "central.db") as before:
        app = await before.apps.create(await before.organizations.get("personal"), "web", network="default")
        await before.machines.reserve(app, "1" * 14, "one", region="local", host="local")
    async with Central(tmp_path / "central.db") as central:
        assert await reconcile(central, HostInventory(host)) == (1, 0)


async def test_records_of_other_hosts_are_left_alone(central: Central, app: App, host: StagedHost) -> None:
    await central.machines.reserve(app, "1" * 14, "one", region="local", host="elsewhere")
    await central.machines.confirm("1" * 14, "sha256:x")
    assert await reconcile(central, HostInventory(host)) == (0, 0)


async def test_a_destroyed_machine_loses_its_record(central: Central, app: App, host: StagedHost) -> None:
    machine_id = await create(host, "one")
    await central.machines.reserve(app, machine_id, "one", region="local", host="local")
    await central.machines.confirm(machine_id, "sha256:x")
    await host.destroy(machine_id)
    await host.wait(machine_id, states=("destroyed",), timeout_s=PATIENCE_S)
    assert await reconcile(central, HostInventory(host)) == (1, 0)


async def test_a_machine_without_a_record_is_adopted(central: Central, app: App, host: StagedHost) -> None:
    machine_id = await create(host, "one")
    await create(host, "stray", app="gone")
    assert await reconcile(central, HostInventory(host)) == (0, 1)
    found = await central.machines.find(machine_id)
    assert found is not None and (found.app, found.name) == ("web", "one")
    assert await reconcile(central, HostInventory(host)) == (0, 0)


async def test_a_machine_that_is_older_than_the_app_of_its_name_is_not_given_to_it(
    central: Central, clock: FakeClock, host: StagedHost
) -> None:
    machine_id = await create(host, "one")
    since_ns = host.get(machine_id).created_at_ns - clock.now_ns()
    clock.advance(since_ns / 1e9 + 1)
    await central.apps.create(await central.organizations.get("personal"), "web", network="default")
    assert await reconcile(central, HostInventory(host)) == (0, 0)
    assert await central.machines.find(machine_id) is None


async def test_a_machine_takes_over_the_name_of_one_that_is_gone(
    central: Central, app: App, host: StagedHost
) -> None:
    await central.machines.reserve(app, "1" * 14, "one", region="local", host="local")
    await central.machines.confirm("1" * 14, "sha256:x")
    machine_id = await create(host, "one")
    assert await reconcile(central, HostInventory(host)) == (1, 1)
    assert await central.machines.find(machine_id) is not None


async def test_many_machines_are_looked_at_in_pages(
    central: Central, app: App, host: StagedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "PAGE", 2)
    for n in range(5):
        await create(host, f"m{n}")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert await reconcile(central, HostInventory(host)) == (0, 5)
    assert turns >= 3
    task.cancel()
    await asyncio.wait([task])


async def test_what_comes_while_the_pages_are_read_is_not_taken_for_gone(
    central: Central, app: App, host: StagedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_id = await create(host, "one")
    view = host.get(machine_id)
    await central.machines.reserve(app, machine_id, "one", region="local", host="local")
    await central.machines.confirm(machine_id, "sha256:x")
    monkeypatch.setattr(host, "list", lambda **_: [])
    assert await reconcile(central, HostInventory(host)) == (0, 0)
    assert await central.machines.find(view.id) is not None
