"""The first byte of a start, from the log and after the fact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from midge.api.first_byte import SILENT_MAX_S, add_first_bytes
from midge.logs.reader import LogReader
from midge.logs.record import LogRecord, format_record

pytestmark = pytest.mark.anyio

BASE_NS = 1_795_255_200_000_000_000
MS = 1_000_000


def run(begun_ms: float, phases: list[tuple[str, float]] | None = None, **more: Any) -> dict[str, Any]:
    """A run that was begun so many milliseconds after BASE_NS; 1 ms for its admission, 3 until the driver had it."""
    phases = phases or [("api", 0.5), ("admission", 1.0), ("journal", 3.0), ("exec", 9.0)]
    return {
        "start_id": "s",
        "kind": "start",
        "started_at_ns": BASE_NS + int(begun_ms * MS),
        "phases": phases,
        **more,
    }


def log(tmp_path: Path, *at_ms: float) -> LogReader:
    path = tmp_path / "output.log"
    records = [LogRecord(BASE_NS + int(ms * MS), "stdout", b"x", True) for ms in at_ms]
    path.write_bytes(b"".join(format_record(record) for record in records))
    return LogReader(path)


def first_bytes(starts: list[dict[str, Any]]) -> list[float | None]:
    return [dict(start["phases"]).get("first byte") for start in starts]


async def test_it_is_the_first_record_after_the_driver_was_asked(tmp_path: Path) -> None:
    # Begun at 100, which is 1 ms after the request came; the driver had it at 102, the byte came at 110.
    reader = log(tmp_path, 50.0, 101.0, 110.0, 111.0)
    told = await add_first_bytes([run(100.0)], reader)
    assert first_bytes(told) == [11.0]
    assert told[0]["phases"][-1][0] == "first byte"


async def test_phases_stay_in_the_order_of_time(tmp_path: Path) -> None:
    told = await add_first_bytes([run(100.0)], log(tmp_path, 107.0))
    assert [name for name, _ in told[0]["phases"]][-2:] == ["first byte", "exec"]


async def test_every_start_has_its_own(tmp_path: Path) -> None:
    reader = log(tmp_path, 110.0, 120.0, 520.0)
    silent = run(200.0)
    assert first_bytes(await add_first_bytes([run(500.0), silent, run(100.0)], reader)) == [21.0, None, 11.0]


async def test_a_process_that_speaks_much_later_has_none(tmp_path: Path) -> None:
    reader = log(tmp_path, 100.0 + SILENT_MAX_S * 1000 + 10)
    assert first_bytes(await add_first_bytes([run(100.0)], reader)) == [None]


@pytest.mark.parametrize(
    "other",
    [
        run(100.0, resumed=True),
        run(100.0, state="failed"),
        run(100.0, [("admission", 1.0), ("exit", 5.0), ("cleanup", 9.0)], kind="stop"),
        run(0.0, started_at_ns=0),
    ],
)
async def test_what_started_no_process_has_none(tmp_path: Path, other: dict[str, Any]) -> None:
    assert first_bytes(await add_first_bytes([other], log(tmp_path, 110.0))) == [None]


async def test_no_log_is_no_error(tmp_path: Path) -> None:
    assert first_bytes(await add_first_bytes([run(100.0)], LogReader(tmp_path / "none"))) == [None]
