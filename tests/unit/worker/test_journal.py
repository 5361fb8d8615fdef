"""Operations that a worker of this version, and of the one before, left half done: each is taken up to its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from midge.drivers.mock import MockDriver
from midge.errors import ImageNotFound
from midge.store.sqlite import Database
from midge.testing.worker import MIGRATIONS, FakeImages, running_worker, settled
from midge.worker import table
from midge.worker.operations import journal
from midge.worker.operations.registry import OPERATIONS

pytestmark = pytest.mark.anyio

VECTORS = Path(__file__).parents[2] / "vectors" / "journal"
FILES = sorted(VECTORS.glob("*/*.json"))
OF_THIS_VERSION = sorted((VECTORS / "current").glob("*.json"))


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


async def lay_out(root: Path, path: Path) -> tuple[str, dict[str, Any]]:
    """The host as the dead worker left it. Returns the machine's id, and the file's content."""
    held = json.loads(path.read_text())
    for file, text in held["mock"].items():
        target = root / "mock" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    database = Database(root / "host.db", MIGRATIONS)
    await database.open()
    for name, rows in held["rows"].items():
        for row in rows:
            columns = {key: v.encode() if key == "config" else v for key, v in row.items()}
            sql = f"INSERT INTO {name}({','.join(columns)}) VALUES({','.join('?' * len(columns))})"
            values = tuple(columns.values())
            await database.write(lambda connection, sql=sql, values=values: connection.execute(sql, values))
    await database.aclose()
    return held["rows"]["machines"][0]["id"], held


@pytest.mark.parametrize("version", ["current", "previous"])
def test_there_is_a_file_for_each_step_of_each_operation(version: str) -> None:
    held = [json.loads(path.read_text())["rows"]["operations"][0] for path in (VECTORS / version).iterdir()]
    steps = {(kind, step) for kind, found in OPERATIONS.items() for step in found.operation.names()}
    assert {(run["kind"], run["step"]) for run in held} == steps


@pytest.mark.parametrize("path", FILES, ids=name_of)
async def test_an_operation_is_taken_up_to_its_end(tmp_path: Path, path: Path) -> None:
    machine_id, held = await lay_out(tmp_path, path)
    async with running_worker(tmp_path) as worker:
        assert await settled(worker, machine_id, held["goal"]) == held["goal"]
        states = {run.id: run.state for run in table.read_runs(worker.parts.database, machine_id, 50)}
        assert states[held["rows"]["operations"][0]["id"]] == "done"
        left = MockDriver(tmp_path / "mock").host.leftovers()
        assert left["run"] == ({machine_id} if held["goal"] == "started" else set())
        assert left["snapshots"] == ({machine_id} if held["goal"] == "suspended" else set())


@pytest.mark.parametrize("version", ["current", "previous"])
async def test_an_update_finds_the_way_back_to_the_version_it_was_to_replace(
    tmp_path: Path, version: str
) -> None:
    machine_id, held = await lay_out(tmp_path, VECTORS / version / "update-image.json")
    images = FakeImages()
    images.fetch_error = ImageNotFound("gone meanwhile")
    async with running_worker(tmp_path, images=images) as worker:
        assert await settled(worker, machine_id) == "started"
        machine = worker.parts.catalog.get(machine_id)
        [old] = [row for row in held["rows"]["versions"] if row["version"] == machine.version]
        assert machine.version != held["rows"]["machines"][0]["version"]
        assert machine.config_json == old["config"].encode()


@pytest.mark.parametrize("path", OF_THIS_VERSION, ids=name_of)
def test_this_version_writes_what_its_files_hold(path: Path) -> None:
    """Where this fails the form of the journal has changed: see `operations.journal`, and write the files anew."""
    [row] = json.loads(path.read_text())["rows"]["operations"]
    assert msgspec.json.encode(journal.decode_input(row["kind"], row["input"])).decode() == row["input"]
    assert msgspec.json.encode(journal.decode_outputs(row["outputs"])).decode() == row["outputs"]
