"""update: the new version, and the way back to the old one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from midge.errors import Conflict, ImageNotFound
from midge.machine.config import MachineConfig
from midge.testing.worker import FakeImages, create_request, mock_order, running_worker, settled
from midge.worker import table
from midge.worker.host import MachineView, UpdateMachine
from midge.worker.local import LocalHost
from midge.worker.worker import Worker
from tests.deadlines import PATIENCE_S
from tests.unit.worker.records import Held, until

pytestmark = pytest.mark.anyio


def request(**fields: Any) -> UpdateMachine:
    options = {name: fields.pop(name) for name in ("skip_launch", "current_version") if name in fields}
    raw = msgspec.json.encode({"image": "busybox", **fields})
    return UpdateMachine(config=msgspec.json.decode(raw, type=MachineConfig), config_json=raw, **options)


async def make(worker: Worker, state: str = "started", **config: Any) -> MachineView:
    view = await worker.create(create_request(skip_launch=state == "created", **config))
    await settled(worker, view.id, state)
    return view


def versions(worker: Worker, machine_id: str) -> list[str]:
    return [version for version, _ in table.read_versions(worker.parts.database, machine_id)]


async def test_a_started_machine_runs_the_new_version(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        old = await make(worker)
        new = await worker.update(old.id, request(image="nginx", env={"A": "b"}, guest={"memory_mb": 512}))
        assert (new.state, new.version > old.version) == ("replacing", True)
        await settled(worker, old.id, "started")
        machine = worker.parts.catalog.get(old.id)
        assert (machine.version, machine.image_ref.repository, machine.memory_mb) == (
            new.version,
            "library/nginx",
            512,
        )
        assert versions(worker, old.id) == [new.version, old.version]


@pytest.mark.parametrize(("state", "after"), [("created", "created"), ("started", "stopped")])
async def test_skip_launch_does_not_start_it(tmp_path: Path, state: str, after: str) -> None:
    async with running_worker(tmp_path) as worker:
        old = await make(worker, state)
        await worker.update(old.id, request(skip_launch=True))
        assert await settled(worker, old.id) == after


async def test_an_image_that_does_not_exist_changes_nothing(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        old = await make(worker)
        with pytest.raises(ImageNotFound):
            await worker.update(old.id, request(image="missing"))
        assert worker.parts.catalog.get(old.id).state == "started"
        assert versions(worker, old.id) == [old.version]


async def test_an_image_that_cannot_be_had_leaves_the_old_version_running(tmp_path: Path) -> None:
    images = FakeImages()
    async with running_worker(tmp_path, images=images) as worker:
        old = await make(worker, env={"A": "old"})
        before = worker.parts.catalog.get(old.id)
        images.fetch_error = ImageNotFound("gone meanwhile")
        await worker.update(old.id, request(image="nginx", guest={"memory_mb": 1024}))
        assert await settled(worker, old.id) == "started"
        after = worker.parts.catalog.get(old.id)
        assert (after.version, after.config_json, after.image_ref, after.memory_mb, after.handle) == (
            before.version,
            before.config_json,
            before.image_ref,
            before.memory_mb,
            before.handle,
        )
        assert versions(worker, old.id) == [old.version]
        newest = table.read_events(worker.parts.database, old.id, 1)[0]
        assert (newest.type, newest.status) == ("update", "failed")
        assert newest.request["error"]["message"] == "gone meanwhile"
        await worker.parts.driver.kill(after.handle)  # type: ignore[arg-type]  # it runs
        assert await settled(worker, old.id, "restarting") == "restarting", "its exit is still watched for"


async def test_metadata_set_during_an_update_that_is_taken_back_stays(tmp_path: Path) -> None:
    driver = Held(tmp_path / "mock")
    async with running_worker(tmp_path, driver=driver) as worker:
        host = LocalHost(worker)
        old = await make(worker, metadata={"kept": "1", "gone": "1", "both": "old"})
        metadata = {**mock_order(fail_prepare=9, fail_final=True), "gone": "1", "both": "new"}
        driver.free.clear()
        await worker.update(old.id, request(metadata=metadata))
        await host.set_metadata(old.id, {"set": "1", "gone": ""})
        driver.free.set()
        assert await settled(worker, old.id) == "started"
        machine = worker.parts.catalog.get(old.id)
        wanted = {"kept": "1", "both": "old", "set": "1"}
        assert (machine.version, machine.config.metadata) == (old.version, wanted)
        [(version, config)] = host.versions(old.id)
        assert (version, msgspec.json.decode(config)["metadata"]) == (old.version, wanted)


async def test_an_update_to_more_memory_than_is_free_is_refused(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        worker.parts.settings.memory_total_mb = 1024
        worker.parts.settings.memory_overcommit = 1.0
        old = await make(worker, guest={"memory_mb": 256})
        await make(worker, guest={"memory_mb": 256})
        with pytest.raises(Conflict, match="could not reserve resource for machine"):
            await worker.update(old.id, request(guest={"memory_mb": 1024}))
        assert (worker.parts.catalog.get(old.id).version, versions(worker, old.id)) == (
            old.version,
            [old.version],
        )
        await worker.update(old.id, request(guest={"memory_mb": 768}))
        await settled(worker, old.id, "started")
        assert worker.parts.free_mb() == 0
        await worker.update(old.id, request(guest={"memory_mb": 256}))
        await settled(worker, old.id, "started")
        await worker.update(old.id, request(guest={"memory_mb": 1024}, skip_launch=True))
        assert await settled(worker, old.id, "stopped") == "stopped"


async def test_a_new_version_that_does_not_start_is_failed(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        old = await make(worker)
        new = await worker.update(old.id, request(metadata=mock_order(fail_start=9, fail_final=True)))
        assert await settled(worker, old.id) == "failed"
        assert worker.parts.catalog.get(old.id).version == new.version
        assert worker.parts.driver.host.leftovers()["run"] == set()  # type: ignore[attr-defined]


async def test_one_update_at_a_time(tmp_path: Path) -> None:
    driver = Held(tmp_path / "mock")
    async with running_worker(tmp_path, driver=driver) as worker:
        old = await make(worker)
        driver.free.clear()
        await worker.update(old.id, request())
        with pytest.raises(Conflict, match="failed due to concurrent update"):
            await worker.update(old.id, request())
        driver.free.set()
        await settled(worker, old.id, "started")


async def test_an_update_of_another_version_is_refused(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        old = await make(worker)
        with pytest.raises(Conflict, match="current_version is 01X"):
            await worker.update(old.id, request(current_version="01X"))
        await worker.update(old.id, request(current_version=old.version))
        await settled(worker, old.id, "started")


async def test_the_version_is_looked_at_again_when_its_turn_comes(tmp_path: Path) -> None:
    driver = Held(tmp_path / "mock")
    async with running_worker(tmp_path, driver=driver) as worker:
        old = await make(worker, "created")
        driver.free.clear()
        await worker.ask(old.id, "start", {})
        updates = [
            asyncio.ensure_future(worker.update(old.id, request(current_version=old.version)))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        assert worker.parts.catalog.get(old.id).state == "starting", "so both wait for their turn"
        driver.free.set()
        found = await asyncio.gather(*updates, return_exceptions=True)
        assert [isinstance(one, Conflict) for one in found] == [False, True]
        await settled(worker, old.id, "started")


async def test_a_start_waits_for_nothing_while_a_version_is_exchanged(tmp_path: Path) -> None:
    driver = Held(tmp_path / "mock")
    async with running_worker(tmp_path, driver=driver) as worker:
        old = await make(worker)
        driver.free.clear()
        await worker.update(old.id, request())
        with pytest.raises(Exception, match="machine getting replaced, refusing to start"):
            await worker.ask(old.id, "start", {})
        driver.free.set()
        await settled(worker, old.id, "started")


async def test_a_follow_up_that_is_refused_is_an_event(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        worker.parts.settings.memory_total_mb = 512
        worker.parts.settings.memory_overcommit = 1.0
        await make(worker, guest={"memory_mb": 512})
        second = await worker.create(create_request(guest={"memory_mb": 512}))
        await settled(worker, second.id, "created")
        result = await worker.parts.catalog.wait(second.id, ["created"], "", PATIENCE_S)
        await until(lambda: table.read_events(worker.parts.database, second.id, 1)[0].type == "start")
        newest = table.read_events(worker.parts.database, second.id, 1)[0]
        assert result.state == "created"
        assert newest.status == "failed"
        assert "could not reserve resource" in newest.request["error"]["message"]


async def test_a_bug_in_one_owner_leaves_the_others_alone(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        first, second = await make(worker), await make(worker)
        owner = worker.owner(first.id)
        owner._inbox.report("nonsense")  # type: ignore[arg-type]  # the bug
        await until(lambda: owner.closed)
        await (await worker.ask(second.id, "stop", {})).done  # type: ignore[misc]  # a stop has one
        assert worker.parts.catalog.get(second.id).state == "stopped"
        await (await worker.ask(first.id, "stop", {})).done  # type: ignore[misc]  # as above
        assert worker.parts.catalog.get(first.id).state == "stopped"


async def test_a_create_whose_client_is_gone_exists_all_the_same(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        wanted = create_request(skip_launch=True)
        task = asyncio.ensure_future(worker.create(wanted))
        await until(lambda: worker.parts.catalog.addresses)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: wanted.id in worker.parts.catalog)
        assert await settled(worker, wanted.id, "created") == "created"
        other = await make(worker, "created")
        assert other.private_ip != worker.parts.catalog.get(wanted.id).ipv4


async def test_a_create_that_cannot_be_written_gives_its_address_back(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        wanted = create_request(skip_launch=True)
        await worker.create(wanted)
        await settled(worker, wanted.id, "created")
        taken = set(worker.parts.catalog.addresses)
        with pytest.raises(Exception, match="UNIQUE"):
            await worker.create(wanted)
        assert worker.parts.catalog.addresses == taken
