"""A build in the background: that it is known, at rest, ended with all it has started, and never mistaken."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from midge.kernel import background
from tests.deadlines import PATIENCE_S

LONG = "sleep 600"  # it does not end by itself within any deadline here


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    background.end(tmp_path)


def script(text: str) -> list[str]:
    """A command that is given ``--scratch DIR`` as `$1` and `$2`."""
    return ["sh", "-c", text, "sh"]


def test_nothing_was_begun(data_dir: Path) -> None:
    assert background.state(data_dir) == "none"
    assert background.end(data_dir) is False
    assert background.last_words(data_dir) == ""


def test_a_build_is_told_with_its_last_words_and_runs_at_rest(data_dir: Path) -> None:
    log = background.begin(data_dir, script(f"mkdir $2; nice; echo compiling; {LONG}"))
    until(lambda: background.last_words(data_dir) == "compiling")
    assert background.state(data_dir) == "building"
    assert log.read_text().splitlines()[0] == "19"


def test_a_second_one_is_not_begun(data_dir: Path) -> None:
    background.begin(data_dir, script(LONG))
    first = (data_dir / background.RECORD).read_bytes()
    background.begin(data_dir, script(LONG))
    assert (data_dir / background.RECORD).read_bytes() == first


def test_the_end_takes_children_and_files_along(data_dir: Path) -> None:
    background.begin(data_dir, script(f"mkdir $2; setsid sh -c 'echo $$; exec {LONG}' & wait"))
    until(lambda: background.last_words(data_dir).isdigit())
    child = int(background.last_words(data_dir))
    assert background.end(data_dir) is True
    background.clear(data_dir)
    until(lambda: not Path(f"/proc/{child}/cwd").exists())
    assert background.state(data_dir) == "none"
    assert not (data_dir / background.SCRATCH).exists()


def test_one_that_has_ended_by_itself_is_told(data_dir: Path) -> None:
    background.begin(data_dir, script("echo no space left; exit 1"))
    until(lambda: background.state(data_dir) == "ended")
    assert background.last_words(data_dir) == "no space left"
    assert background.end(data_dir) is False


def test_another_process_with_the_same_number_is_left_alone(data_dir: Path) -> None:
    record = background.Build(pid=os.getpid(), began=1)
    (data_dir / background.RECORD).write_bytes(msgspec.json.encode(record))
    assert background.state(data_dir) == "ended"
    assert background.end(data_dir) is False


def test_a_damaged_record_is_none(data_dir: Path) -> None:
    (data_dir / background.RECORD).write_text("{")
    assert background.state(data_dir) == "none"
