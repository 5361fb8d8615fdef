"""A worker on what an earlier one left, and on a disk that does not take every write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec
import pytest

from midge.drivers.base import HANDLE_VERSION, Handle
from midge.drivers.mock import MockDriver
from midge.errors import HandleUnknown, OutOfSpace
from midge.operations.model import Run
from midge.store.sqlite import Database
from midge.testing.worker import MIGRATIONS, create_request, mock_order, running_worker, settled
from midge.worker import owner as owners
from midge.worker import table
from midge.worker.operations.journal import Launched, StartInput, StopInput, decode_input
from midge.worker.recovery import check_handles, missed_follow
from midge.worker.worker import Worker
from tests.unit.worker.records import Held, machine, until

pytestmark = pytest.mark.anyio
T = TypeVar("T")


def exits(worker: Worker, machine_id: str) -> list[Any]:
    found = table.read_events(worker.parts.database, machine_id, 50)
    return [event.request["exit_event"] for event in reversed(found) if event.type == "exit"]


async def started(root: Path, **config: Any) -> str:
    async with running_worker(root) as worker:
        view = await worker.create(create_request(**config))
        await settled(worker, view.id, "started")
        return view.id


async def test_a_running_machine_is_taken_up_and_watched(tmp_path: Path) -> None:
    machine_id = await started(tmp_path)
    async with running_worker(tmp_path) as worker:
        found = worker.parts.catalog.get(machine_id)
        assert found.state == "started" and found.handle is not None
        await worker.parts.driver.kill(found.handle)
        await settled(worker, machine_id, "stopping", "restarting")
        assert exits(worker, machine_id)[0]["signal"] == 9


async def test_an_exit_that_nobody_saw_has_its_code_and_its_restart(tmp_path: Path) -> None:
    machine_id = await started(
        tmp_path, restart={"policy": "on-failure", "max_retries": 1}, metadata=mock_order(exit_after_ms=30, exit_code=7)
    )  # fmt: skip
    await asyncio.sleep(0.03)  # the process ends by itself at a time of its own, and no worker looks
    async with running_worker(tmp_path) as worker:
        assert await settled(worker, machine_id, "stopped") == "stopped"
        assert [(e["exit_code"], e["restarting"]) for e in exits(worker, machine_id)] == [
            (7, True),
            (7, False),
        ]


async def test_a_machine_the_driver_does_not_find_has_ended_by_signal_9(tmp_path: Path) -> None:
    machine_id = await started(tmp_path, restart={"policy": "no"})
    (tmp_path / "mock" / "run" / machine_id).unlink()
    async with running_worker(tmp_path) as worker:
        await settled(worker, machine_id, "stopped")
        (left,) = exits(worker, machine_id)
        assert (left["exit_code"], left["signal"]) == (137, 9)
        assert left["error"] == "lost: no such mock machine"


async def test_a_handle_of_another_driver_is_lost_and_says_why(tmp_path: Path) -> None:
    machine_id = await started(tmp_path, restart={"policy": "no"})
    driver = MockDriver(tmp_path / "mock")
    driver.name = "other"
    async with running_worker(tmp_path, driver=driver) as worker:
        await settled(worker, machine_id, "stopped")
        assert "it ran on the mock driver" in exits(worker, machine_id)[0]["error"]


async def test_a_machine_of_another_version_is_left_alone_and_the_worker_does_not_run(tmp_path: Path) -> None:
    machine_id = await started(tmp_path)
    before = (tmp_path / "mock" / "run" / machine_id).read_bytes()
    await _set_handle_version(tmp_path, HANDLE_VERSION + 1)
    with pytest.raises(HandleUnknown, match=machine_id):
        async with running_worker(tmp_path):
            pytest.fail("it runs")
    assert (tmp_path / "mock" / "run" / machine_id).read_bytes() == before
    await _set_handle_version(tmp_path, HANDLE_VERSION)
    async with running_worker(tmp_path) as worker:
        assert worker.parts.catalog.get(machine_id).state == "started"
        assert exits(worker, machine_id) == []


async def _set_handle_version(root: Path, version: int) -> None:
    database = Database(root / "host.db", MIGRATIONS)
    await database.open()
    sql = "UPDATE machines SET handle = json_set(handle, '$.version', ?)"
    await database.write(lambda connection: connection.execute(sql, (version,)))
    await database.aclose()


@pytest.mark.parametrize(("version", "known"), [(HANDLE_VERSION, True), (HANDLE_VERSION + 1, False)])
def test_a_handle_that_only_the_journal_has_is_looked_at_too(version: int, known: bool) -> None:
    handle = Handle(driver="mock", machine_id="m", start_id="s", version=version)
    run = Run(
        id="r", subject="m", kind="start", input=StartInput(), outputs={"launch": Launched(handle=handle)}
    )
    with contextlib.nullcontext() if known else pytest.raises(HandleUnknown):
        check_handles([], [run])


async def test_a_half_done_start_is_finished(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        view = await worker.create(create_request(metadata=mock_order(start_ms=50)))
        await settled(worker, view.id, "starting")
    async with running_worker(tmp_path) as worker:
        assert await settled(worker, view.id) == "started"


@pytest.mark.parametrize(
    ("column", "value"), [("input", "{"), ("outputs", '{"launch": 3}'), ("kind", "fly"), ("phases", "[1]")]
)
async def test_an_operation_that_cannot_be_read_stops_no_other_machine(
    tmp_path: Path, column: str, value: str
) -> None:
    async with running_worker(tmp_path) as worker:
        well = await worker.create(create_request(metadata=mock_order(start_ms=50)))
        hurt = await worker.create(create_request(metadata=mock_order(start_ms=50)))
        await settled(worker, well.id, "starting")
        await settled(worker, hurt.id, "starting")
    database = Database(tmp_path / "host.db", MIGRATIONS)
    await database.open()
    damage = f"UPDATE operations SET {column}=? WHERE subject=? AND state='running'"
    await database.write(lambda connection: connection.execute(damage, (value, hurt.id)))
    await database.aclose()
    async with running_worker(tmp_path) as worker:
        assert await settled(worker, well.id) == "started"
        assert worker.parts.catalog.get(hurt.id).state == "failed"
        (told, *_) = table.read_events(worker.parts.database, hurt.id, 1)
        assert told.status == "failed" and "cannot be read" in str(told.request)
        await worker.ask(hurt.id, "force_destroy", {})
        assert await settled(worker, hurt.id, "destroyed") == "destroyed"


def test_a_handle_of_another_version_is_seen_in_a_row_that_cannot_be_read() -> None:
    row = table.Unreadable(
        id="r", subject="m", kind="start", reason="", started_at_ns=0, handle_version=HANDLE_VERSION + 1
    )
    with pytest.raises(HandleUnknown):
        check_handles([], [], [row])


async def test_what_belongs_to_nobody_is_swept(tmp_path: Path) -> None:
    (tmp_path / "mock" / "run").mkdir(parents=True)
    (tmp_path / "mock" / "run" / "stray").write_text("{}")
    async with running_worker(tmp_path):
        assert not (tmp_path / "mock" / "run" / "stray").exists()


async def test_a_destroyed_machine_is_forgotten_with_all_it_left(tmp_path: Path) -> None:
    machine_id = await started(tmp_path)
    async with running_worker(tmp_path) as worker:
        await worker.forget(machine_id)
        assert machine_id in worker.parts.catalog, "it is not destroyed"
        accepted = await worker.ask(machine_id, "force_destroy", {})
        assert accepted.done is not None
        await accepted.done
        await until(lambda: machine_id not in worker._owners)
        await worker.forget(machine_id)
        assert machine_id not in worker.parts.catalog
        for name in ("machines", "versions", "events", "operations"):
            assert worker.parts.database.read(f"SELECT * FROM {name}") == []
        assert not worker.parts.log_path(machine_id).parent.exists()


async def test_a_failed_create_whose_removal_had_not_begun_is_taken_back(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        view = await worker.create(create_request(skip_launch=True))
        await settled(worker, view.id, "created")
        sql = "UPDATE machines SET state='launch_failed' WHERE id=?"
        await worker.parts.database.write(lambda connection: connection.execute(sql, (view.id,)))
    async with running_worker(tmp_path) as worker:
        assert await settled(worker, view.id, "destroyed") == "destroyed"


async def test_a_start_that_was_to_follow_a_create_follows(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        view = await worker.create(create_request(skip_launch=True))
        await settled(worker, view.id, "created")
        sql = "UPDATE operations SET input='{}' WHERE subject=?"
        await worker.parts.database.write(lambda connection: connection.execute(sql, (view.id,)))
    async with running_worker(tmp_path) as worker:
        assert await settled(worker, view.id, "started") == "started"


@pytest.mark.parametrize(
    ("kind", "run_state", "state", "given", "expected"),
    [
        ("create", "done", "created", {}, "start"),
        ("create", "done", "created", {"skip_launch": True}, None),
        ("create", "failed", "created", {}, None),
        ("create", "done", "stopped", {}, None),
        ("stop", "done", "stopped", {}, "force_destroy"),
        ("stop", "done", "failed", {}, None),
    ],
)
def test_what_follows_the_last_operation(
    kind: str, run_state: Any, state: Any, given: dict[str, Any], expected: str | None
) -> None:
    last = Run("01", "m", kind, decode_input(kind, msgspec.json.encode(given)), state=run_state)
    found = missed_follow(machine(state=state, auto_destroy=True), last)
    assert (found[0] if found else None) == expected


def test_nothing_follows_a_stop_of_a_machine_that_stays() -> None:
    assert missed_follow(machine(state="stopped"), Run("01", "m", "stop", StopInput(), state="done")) is None
    assert missed_follow(machine(state="stopped"), None) is None


class FullDatabase(Database):
    """Refuses the next `full` writes, as a full disk does; `skip` more go through before."""

    full = 0
    skip = 0

    def __init__(self, path: Path, migrations: Path) -> None:
        super().__init__(path, migrations)
        self.seen: list[set[str]] = []  # states of all operations after each write

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        if self.full and self.skip:
            self.skip -= 1
        elif self.full:
            self.full -= 1
            raise OutOfSpace("no space left for host.db")

        def observed(connection: apsw.Connection) -> T:
            result = job(connection)
            self.seen.append({row[0] for row in connection.execute("SELECT state FROM operations")})
            return result

        return await super().write(observed)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "REPORT_RETRY_FIRST_S", 0.0)


async def created(worker: Worker, **config: Any) -> tuple[str, FullDatabase]:
    view = await worker.create(create_request(skip_launch=True, **config))
    await settled(worker, view.id, "created")
    database = worker.parts.database
    assert isinstance(database, FullDatabase)
    return view.id, database


@pytest.mark.usefixtures("quick_retries")
async def test_the_end_of_an_operation_is_written_as_soon_as_there_is_room(tmp_path: Path) -> None:
    async with running_worker(tmp_path, database=FullDatabase) as worker:
        machine_id, database = await created(worker)
        database.skip, database.full = 1, 3
        accepted = await worker.ask(machine_id, "start", {})
        assert accepted.done is not None
        await accepted.done
        assert worker.parts.catalog.get(machine_id).state == "started"
        assert database.full == 0


@pytest.mark.usefixtures("quick_retries")
async def test_an_exit_is_not_lost_while_the_disk_is_full(tmp_path: Path) -> None:
    async with running_worker(tmp_path, database=FullDatabase) as worker:
        machine_id, database = await created(worker, restart={"policy": "no"})
        accepted = await worker.ask(machine_id, "start", {})
        assert accepted.done is not None
        await accepted.done
        database.full = 3
        handle = worker.parts.catalog.get(machine_id).handle
        assert handle is not None
        await worker.parts.driver.kill(handle)
        assert await settled(worker, machine_id, "stopped") == "stopped"


@pytest.mark.usefixtures("quick_retries")
async def test_a_full_disk_within_an_operation_fails_it_and_not_the_worker(tmp_path: Path) -> None:
    async with running_worker(tmp_path, database=FullDatabase) as worker:
        machine_id, database = await created(worker)
        await (await worker.ask(machine_id, "start", {})).done  # type: ignore[misc]  # a start has one
        database.skip, database.full = 1, 1  # the intent goes through, the first step's output does not
        accepted = await worker.ask(machine_id, "stop", {})
        assert accepted.done is not None
        with pytest.raises(OutOfSpace):
            await accepted.done
        assert worker.parts.catalog.get(machine_id).state == "failed"
        await (await worker.ask(machine_id, "stop", {})).done  # type: ignore[misc]  # as above
        assert worker.parts.catalog.get(machine_id).state == "stopped"


async def test_an_operation_goes_on_when_the_one_to_supersede_it_cannot_be_written(tmp_path: Path) -> None:
    driver = Held(tmp_path / "mock")
    async with running_worker(tmp_path, driver=driver, database=FullDatabase) as worker:
        machine_id, database = await created(worker)
        driver.free.clear()
        start = await worker.ask(machine_id, "start", {})
        assert start.done is not None
        await driver.held.wait()  # what it writes before is written
        database.full = 1
        with pytest.raises(OutOfSpace):
            await worker.ask(machine_id, "stop", {})
        driver.free.set()
        await start.done
        assert worker.parts.catalog.get(machine_id).state == "started"


async def test_the_end_of_what_is_superseded_and_the_new_intent_are_one_write(tmp_path: Path) -> None:
    async with running_worker(tmp_path, database=FullDatabase) as worker:
        machine_id, database = await created(worker, metadata=mock_order(start_ms=60_000))
        await worker.ask(machine_id, "start", {})
        database.seen.clear()
        stop = await worker.ask(machine_id, "stop", {})
        assert stop.done is not None
        await stop.done
        assert database.seen[0] == {"done", "superseded", "running"}
