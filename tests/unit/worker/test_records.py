"""Changes beside the lifecycle: metadata, leases, cordon; and waiting from an event on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from midge.errors import Conflict, DeadlineExceeded, InvalidInput, LeaseHeld, NotFound, PreconditionFailed
from midge.machine.config import MachineConfig
from midge.machine.normalise import METADATA_MAX_BYTES
from midge.testing.worker import create_request, mock_order, running_worker, settled
from midge.worker.host import MachineView, UpdateMachine
from midge.worker.local import LocalHost
from midge.worker.worker import Worker
from tests.deadlines import PATIENCE_S
from tests.unit.worker.records import Held

pytestmark = pytest.mark.anyio


async def make(worker: Worker, **config: Any) -> tuple[LocalHost, MachineView]:
    view = await worker.create(create_request(skip_launch=True, **config))
    await settled(worker, view.id, "created")
    return LocalHost(worker), LocalHost(worker).get(view.id)


def metadata(host: LocalHost, machine_id: str) -> Any:
    return msgspec.json.decode(host.get(machine_id).config).get("metadata")


async def test_metadata_is_merged_without_a_new_version(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, before = await make(worker, metadata={"a": "1", "b": "2"}, unknown=[1])
        await host.set_metadata(before.id, {"a": "3", "b": None, "c": "4", "d": ""})
        after = host.get(before.id)
        assert metadata(host, before.id) == {"a": "3", "c": "4"}
        assert (after.version, after.state) == (before.version, before.state)
        assert after.seq > before.seq
        assert msgspec.json.decode(after.config)["unknown"] == [1]
        assert [v for v, _ in host.versions(before.id)] == [before.version]
        assert msgspec.json.decode(host.versions(before.id)[0][1])["metadata"] == {"a": "3", "c": "4"}
    async with running_worker(tmp_path) as worker:
        assert metadata(LocalHost(worker), before.id) == {"a": "3", "c": "4"}


async def test_metadata_of_another_version_or_too_much_is_refused(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker)
        with pytest.raises(PreconditionFailed, match="machine_version is 01X"):
            await host.set_metadata(view.id, {"a": "1"}, machine_version="01X")
        with pytest.raises(InvalidInput, match=f"at most {METADATA_MAX_BYTES}"):
            await host.set_metadata(view.id, {"a": "é" * (METADATA_MAX_BYTES // 2)})
        assert metadata(host, view.id) is None


async def test_metadata_set_while_an_operation_runs_stays(tmp_path: Path) -> None:
    driver = Held(tmp_path / "mock")
    async with running_worker(tmp_path, driver=driver) as worker:
        host, view = await make(worker)
        driver.free.clear()
        accepted = await worker.ask(view.id, "start", {})
        await host.set_metadata(view.id, {"a": "1"})
        assert host.get(view.id).state == "starting"
        driver.free.set()
        assert accepted.done is not None
        await accepted.done
        assert (host.get(view.id).state, metadata(host, view.id)) == ("started", {"a": "1"})


async def test_a_lease_keeps_others_out_until_it_is_released(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker)
        lease = await host.acquire_lease(view.id, ttl_s=30, owner="alice", description="deploy")
        assert host.get_lease(view.id) == lease
        with pytest.raises(LeaseHeld, match="currently held by alice"):
            await host.acquire_lease(view.id, ttl_s=30, owner="bob")
        with pytest.raises(LeaseHeld):
            await host.start(view.id)
        with pytest.raises(LeaseHeld):
            await host.cordon(view.id, True)
        await host.cordon(view.id, True, nonce=lease.nonce)
        with pytest.raises(Conflict, match="currently held by alice"):
            await host.release_lease(view.id, nonce="wrong")
        await host.release_lease(view.id, nonce=lease.nonce)
        assert host.get_lease(view.id) is None
        with pytest.raises(NotFound, match="lease not found"):
            await host.release_lease(view.id, nonce=lease.nonce)
        assert (await host.start(view.id)) == "created"


async def test_with_its_nonce_a_lease_is_prolonged_and_stays_the_same(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker)
        first = await host.acquire_lease(view.id, ttl_s=10, owner="alice", description="deploy")
        again = await host.acquire_lease(view.id, ttl_s=1000, owner="bob", nonce=first.nonce)
        assert (again.nonce, again.owner, again.description) == (first.nonce, "alice", "deploy")
        assert again.expires_at > first.expires_at


@pytest.mark.parametrize("ttl_s", [0, -1, 86_401])
async def test_a_lease_has_a_longest_time(tmp_path: Path, ttl_s: int) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker)
        with pytest.raises(InvalidInput, match=r"^ttl:"):
            await host.acquire_lease(view.id, ttl_s=ttl_s, owner="alice")


async def test_a_lease_outlives_the_worker(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker)
        lease = await host.acquire_lease(view.id, ttl_s=30, owner="alice")
    async with running_worker(tmp_path) as worker:
        assert LocalHost(worker).get_lease(view.id) == lease


async def test_cordon_is_an_event_once(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker)
        await host.cordon(view.id, True)
        await host.cordon(view.id, True)
        assert host.get(view.id).cordoned
        assert [event.type for event in host.events(view.id, 10)] == ["cordon", "launch"]


async def test_a_destroyed_machine_takes_no_changes(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker)
        await (await worker.ask(view.id, "destroy", {})).done  # type: ignore[misc]  # a destroy has one
        for change in (
            host.set_metadata(view.id, {"a": "1"}),
            host.cordon(view.id, True),
            host.acquire_lease(view.id, ttl_s=1, owner="a"),
        ):
            with pytest.raises(NotFound, match="machine not found"):
                await change


async def test_waiting_from_an_event_on_finds_what_has_passed_already(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker)
        begin = host.events(view.id, 1)[0].id
        await host.start(view.id)
        await (await worker.ask(view.id, "stop", {})).done  # type: ignore[misc]  # a stop has one
        found = await host.wait(view.id, states={"started"}, timeout_s=PATIENCE_S, from_event_id=begin)
        assert found.state == "started"
        assert found.event_id > begin


async def test_waiting_from_an_event_on_takes_no_failure_for_a_state(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker, metadata=mock_order(fail_suspend=1))
        begin = host.events(view.id, 1)[0].id
        await host.start(view.id)
        await host.suspend(view.id)
        await settled(worker, view.id, "started")
        assert host.events(view.id, 1)[0].status == "failed", "the suspend; the machine runs on"
        with pytest.raises(DeadlineExceeded, match="currently started"):
            await host.wait(view.id, states={"failed"}, timeout_s=0.01, from_event_id=begin)


async def test_waiting_from_an_event_on_waits_for_that_version(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker)
        begin = host.events(view.id, 1)[0].id
        await host.start(view.id)
        raw = msgspec.json.encode({"image": "busybox", "metadata": mock_order(start_ms=20)})
        config = msgspec.json.decode(raw, type=MachineConfig)
        new = await host.update(view.id, UpdateMachine(config=config, config_json=raw))
        found = await host.wait(
            view.id, states={"started"}, timeout_s=PATIENCE_S, from_event_id=begin, version=new.version
        )
        assert (found.state, found.version) == ("started", new.version)
        assert (
            await host.wait(view.id, states={"started"}, timeout_s=PATIENCE_S, from_event_id=begin)
        ).version == (view.version)


async def test_waiting_from_an_exit_on_finds_the_stop_it_led_to(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker, metadata=mock_order(exit_after_ms=1))
        await host.start(view.id)
        await settled(worker, view.id, "stopped")
        left = host.events(view.id, 1)[0]
        assert left.type == "exit"
        found = await host.wait(view.id, states={"stopped"}, timeout_s=PATIENCE_S, from_event_id=left.id)
        assert found.state == "stopped"


async def test_waiting_from_the_newest_event_on_waits_for_the_next(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        host, view = await make(worker)
        await host.start(view.id)
        newest = host.events(view.id, 1)[0].id
        with pytest.raises(Exception, match="deadline_exceeded"):
            await host.wait(view.id, states={"started"}, timeout_s=0.01, from_event_id=newest)
