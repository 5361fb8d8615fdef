"""A machine's life on the mock driver: what each request does, and what the events say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from midge.errors import Conflict, ImageNotFound, PreconditionFailed
from midge.testing.worker import create_request, mock_order, running_worker, settled
from midge.worker import table
from midge.worker.worker import Worker
from tests.unit.worker.records import Held

pytestmark = pytest.mark.anyio


async def make(worker: Worker, **config: Any) -> str:
    view = await worker.create(create_request(**config))
    return view.id


def events(worker: Worker, machine_id: str) -> list[tuple[str, str]]:
    """(type, status), oldest first."""
    found = table.read_events(worker.parts.database, machine_id, 50)
    return [(event.type, event.status) for event in reversed(found)]


async def ask(worker: Worker, machine_id: str, request: Any, **params: Any) -> str:
    accepted = await worker.ask(machine_id, request, params)
    if accepted.done is not None:
        await accepted.done
    return accepted.previous


async def test_create_starts_the_machine_by_itself(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker)
        assert await settled(worker, machine_id, "started") == "started"
        assert events(worker, machine_id) == [
            ("launch", "created"),
            ("start", "starting"),
            ("start", "started"),
        ]


async def test_skip_launch_leaves_the_machine_created(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        view = await worker.create(create_request(skip_launch=True))
        assert await settled(worker, view.id, "created") == "created"
        assert await ask(worker, view.id, "start") == "created"
        assert worker.parts.catalog.get(view.id).state == "started"


async def test_stop_ends_the_process_and_records_a_requested_exit(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker)
        await settled(worker, machine_id, "started")
        await ask(worker, machine_id, "stop")
        newest = table.read_events(worker.parts.database, machine_id, 1)[0]
        assert (newest.type, newest.status) == ("exit", "stopped")
        assert newest.request["exit_event"]["requested_stop"] is True
        assert newest.request["exit_event"]["exit_code"] == 0


async def test_a_process_that_ignores_signals_is_killed_after_the_timeout(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(
            worker, metadata=mock_order(ignore_signals=True), stop_config={"timeout": "20ms"}
        )
        await settled(worker, machine_id, "started")
        await ask(worker, machine_id, "stop")
        newest = table.read_events(worker.parts.database, machine_id, 1)[0]
        assert newest.request["exit_event"]["signal"] == 9


async def test_exit_by_itself_stops_the_machine_with_its_code(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(
            worker, restart={"policy": "no"}, metadata=mock_order(exit_after_ms=1, exit_code=3)
        )
        assert await settled(worker, machine_id, "stopped") == "stopped"
        exit_event = table.read_events(worker.parts.database, machine_id, 1)[0].request["exit_event"]
        assert exit_event["exit_code"] == 3
        assert exit_event["requested_stop"] is False
        assert exit_event["restarting"] is False


async def test_on_failure_restarts_until_its_retries_are_used_up(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(
            worker,
            restart={"policy": "on-failure", "max_retries": 1},
            metadata=mock_order(exit_after_ms=1, exit_code=1),
        )
        assert await settled(worker, machine_id, "stopped") == "stopped"
        assert [e for e in events(worker, machine_id) if e[0] == "exit"] == [("exit", "stopped")] * 2
        assert ("restart", "restarting") in events(worker, machine_id)


async def test_auto_destroy_removes_the_machine_after_its_exit(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(
            worker, auto_destroy=True, restart={"policy": "no"}, metadata=mock_order(exit_after_ms=1)
        )
        assert await settled(worker, machine_id, "destroyed") == "destroyed"
        kinds = [kind for kind, _ in events(worker, machine_id)]
        assert kinds.count("exit") == 1
        assert worker.parts.driver.host.leftovers()["run"] == set()  # type: ignore[attr-defined]


async def test_auto_destroy_follows_a_requested_stop_too(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker, auto_destroy=True)
        await settled(worker, machine_id, "started")
        await ask(worker, machine_id, "stop")
        assert await settled(worker, machine_id, "destroyed") == "destroyed"


async def test_destroy_of_a_started_machine_needs_force(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker)
        await settled(worker, machine_id, "started")
        with pytest.raises(PreconditionFailed, match="unable to destroy machine"):
            await ask(worker, machine_id, "destroy")
        await ask(worker, machine_id, "force_destroy")
        assert worker.parts.catalog.get(machine_id).state == "destroyed"


async def test_an_unknown_image_is_refused_before_anything_exists(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        with pytest.raises(ImageNotFound):
            await make(worker, image="missing/image")
        assert len(worker.parts.catalog) == 0


async def test_a_create_that_fails_is_taken_back(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker, metadata=mock_order(fail_prepare=99, fail_final=True))
        assert await settled(worker, machine_id, "destroyed") == "destroyed"
        assert ("launch", "failed") in events(worker, machine_id)
        assert not any(worker.parts.driver.host.leftovers().values())  # type: ignore[attr-defined]


async def test_a_start_that_fails_for_good_leaves_the_machine_failed(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker, metadata=mock_order(fail_start=99, fail_final=True))
        assert await settled(worker, machine_id, "failed") == "failed"
        assert worker.parts.driver.host.leftovers()["run"] == set()  # type: ignore[attr-defined]


async def test_a_start_that_fails_once_is_tried_again(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker, metadata=mock_order(fail_start=1))
        assert await settled(worker, machine_id, "started") == "started"


async def test_stop_during_start_ends_the_start(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker, metadata=mock_order(start_ms=60_000))
        await settled(worker, machine_id, "starting")
        await ask(worker, machine_id, "stop")
        assert worker.parts.catalog.get(machine_id).state == "stopped"
        runs = table.read_runs(worker.parts.database, machine_id, 5)
        assert [run.state for run in runs] == ["done", "superseded", "done"]


async def test_two_starts_at_once_are_one(tmp_path: Path) -> None:
    driver = Held(tmp_path / "mock")
    async with running_worker(tmp_path, driver=driver) as worker:
        view = await worker.create(create_request(skip_launch=True))
        await settled(worker, view.id, "created")
        driver.free.clear()
        first = await worker.ask(view.id, "start", {})
        second = await worker.ask(view.id, "start", {})
        driver.free.set()
        assert first.done is second.done
        assert second.previous == "starting"
        assert first.done is not None
        await first.done


async def test_suspend_and_start_resume_the_same_process(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker)
        await settled(worker, machine_id, "started")
        await ask(worker, machine_id, "suspend")
        assert worker.parts.catalog.get(machine_id).state == "suspended"
        await ask(worker, machine_id, "start")
        newest = table.read_events(worker.parts.database, machine_id, 1)[0]
        assert newest.request == {"resumed": True}


async def test_a_lost_snapshot_means_a_cold_start_that_says_so(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker, metadata=mock_order(lose_snapshot=True))
        await settled(worker, machine_id, "started")
        await ask(worker, machine_id, "suspend")
        await ask(worker, machine_id, "start")
        newest = table.read_events(worker.parts.database, machine_id, 1)[0]
        assert newest.request["resumed"] is False
        assert "cold start" in newest.request["note"]


async def test_a_suspend_that_fails_leaves_the_machine_running(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker, metadata=mock_order(fail_suspend=1))
        await settled(worker, machine_id, "started")
        with pytest.raises(Exception, match="suspend fails as ordered"):
            await ask(worker, machine_id, "suspend")
        assert worker.parts.catalog.get(machine_id).state == "started"
        await ask(worker, machine_id, "stop")


async def test_stop_of_a_suspended_machine_drops_the_snapshot(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker)
        await settled(worker, machine_id, "started")
        await ask(worker, machine_id, "suspend")
        await ask(worker, machine_id, "stop")
        assert worker.parts.driver.host.leftovers()["snapshots"] == set()  # type: ignore[attr-defined]
        assert worker.parts.catalog.get(machine_id).snapshot is None


async def test_restart_keeps_the_version(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        machine_id = await make(worker)
        await settled(worker, machine_id, "started")
        before = worker.parts.catalog.get(machine_id)
        await ask(worker, machine_id, "restart")
        after = worker.parts.catalog.get(machine_id)
        assert after.state == "started"
        assert after.version == before.version
        assert after.handle is not None and before.handle is not None
        assert after.handle.start_id != before.handle.start_id


async def test_a_start_without_room_is_refused(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        worker.parts.settings.memory_total_mb = 512
        worker.parts.settings.memory_overcommit = 1.0
        first = await make(worker, guest={"memory_mb": 512})
        await settled(worker, first, "started")
        second = await worker.create(create_request(skip_launch=True, guest={"memory_mb": 512}))
        await settled(worker, second.id, "created")
        with pytest.raises(Conflict, match="could not reserve resource for machine"):
            await ask(worker, second.id, "start")
