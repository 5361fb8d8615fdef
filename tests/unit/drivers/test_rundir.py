"""The record of a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from midge.drivers.rundir import RECORD_NAME, RunRecord, fresh, read_record, telling, write_record
from midge.errors import DeadlineExceeded, DriverError
from midge.guest.errors import ChannelLost


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    record = RunRecord(start_id="s", slot="mg-1", data={"uid": 7})
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == [RECORD_NAME]


def test_without_a_run_there_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path / "gone") is None
    (tmp_path / "file").touch()
    assert read_record(tmp_path / "file") is None


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / RECORD_NAME).write_text("{")
    with pytest.raises(DriverError, match="damaged"):
        read_record(tmp_path)


def test_a_fresh_directory_is_empty_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "m"
    for _ in range(2):
        fresh(folder)
        assert list(folder.iterdir()) == []
        (folder / "x").mkdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_that_a_guest_is_told_is_on_record_before_it_is(tmp_path: Path) -> None:
    record = RunRecord(start_id="s", slot="mg-1", data={"uid": 7})
    write_record(tmp_path, record)
    with telling(tmp_path):
        assert read_record(tmp_path) == RunRecord(start_id="s", slot="mg-1", told=True, data={"uid": 7})
    assert read_record(tmp_path) == RunRecord(start_id="s", slot="mg-1", told=True, data={"uid": 7})


def test_telling_that_fails_has_not_been(tmp_path: Path) -> None:
    record = RunRecord(start_id="s")
    write_record(tmp_path, record)
    with pytest.raises(DriverError, match="no"), telling(tmp_path):
        raise DriverError("no")
    assert read_record(tmp_path) == record


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ChannelLost("gone"), DeadlineExceeded("late")])
def test_who_does_not_know_whether_the_guest_was_told_says_it_was(
    tmp_path: Path, error: BaseException
) -> None:
    write_record(tmp_path, RunRecord(start_id="s"))
    with pytest.raises(type(error)), telling(tmp_path):
        raise error
    assert read_record(tmp_path) == RunRecord(start_id="s", told=True)


def test_nobody_is_told_without_a_record(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="gone"), telling(tmp_path):
        pytest.fail("told")
