"""Writes what the journal holds after each write of each operation, on mock: the files of `tests/vectors/journal`.

``python -m tests.contract.journal FOLDER`` with the version whose journal it is to be.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from midge.testing.faults import CrashingDatabase
from midge.testing.worker import create_request, running_worker
from midge.worker.worker import Worker
from tests.contract.operations import CASES, Case, begin
from tests.contract.test_operations_mock import MockKit

TABLES = ("machines", "versions", "operations")
WRITES_MAX = 20  # of one operation


async def _exit(worker: Worker, machine_id: str) -> None:
    """The process ends by itself; the restart policy says what follows."""
    machine = worker.parts.catalog.get(machine_id)
    assert machine.handle is not None
    await worker.parts.driver.kill(machine.handle)
    policy = machine.config.restart
    restarts = policy is not None and policy.policy != "no"
    await worker.parts.catalog.wait(machine_id, ["restarting" if restarts else "stopped"], "", 10.0)
    await worker.parts.catalog.wait(machine_id, ["started" if restarts else "stopped"], "", 10.0)


async def _create(worker: Worker, _: str) -> None:
    view = await worker.create(create_request(**MockKit(Path()).config))
    await worker.parts.catalog.wait(view.id, ["started"], "", 10.0)


ALL = [
    Case("create", "", "started", _create),
    *CASES,
    Case("exit", "started", "started", _exit),
    Case("settle", "started", "stopped", _exit),
]


async def stopped_after(folder: Path, case: Case, n: int) -> dict[str, Any] | None:
    """What is on the disk after the n-th write of an operation; None where it has fewer."""
    kit = MockKit(folder / "mock")
    if case.name == "settle":
        kit.config["restart"] = {"policy": "no"}
    async with running_worker(
        folder,
        driver=kit.driver(),
        images=kit.images(),
        settings=kit.settings(folder),
        database=CrashingDatabase,
    ) as worker:
        machine_id = await begin(worker, kit, case.begin) if case.begin else ""
        database = worker.parts.database
        assert isinstance(database, CrashingDatabase)
        database.crash_at(n, "after")
        asked = asyncio.ensure_future(case.ask(worker, machine_id))
        dead = asyncio.ensure_future(database.crashed.wait())
        await asyncio.wait([asked, dead], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        dead.cancel()
        await asyncio.wait([asked, dead])
        if not database.crashed.is_set():
            return None
        rows = {}
        for table in TABLES:
            names = [row[1] for row in database.read(f"PRAGMA table_info({table})")]
            rows[table] = [
                {name: _text(value) for name, value in zip(names, row, strict=True)}
                for row in database.read(f"SELECT * FROM {table}")
            ]
    rows["operations"] = [row for row in rows["operations"] if row["state"] == "running"]
    mock = folder / "mock"
    files = {str(p.relative_to(mock)): p.read_text() for p in sorted(mock.rglob("*")) if p.is_file()}
    return {"goal": case.goal, "rows": rows, "mock": files}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


async def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        for case in ALL:
            for n in range(1, WRITES_MAX):
                folder = Path(root) / f"{case.name}-{n}"
                folder.mkdir()
                found = await stopped_after(folder, case, n)
                if found is None:
                    break
                for run in found["rows"]["operations"]:
                    # The first half of `start during suspend` is the suspend, which has a case of its own.
                    if run["kind"] != "suspend" or case.operation == "suspend":
                        name = f"{case.name.replace(' ', '-')}-{run['step']}.json"
                        (target / name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
