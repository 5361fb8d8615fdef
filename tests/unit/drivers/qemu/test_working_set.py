"""Pages a process has used of a file, and reading them ahead."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from midge.drivers.qemu import working_set
from midge.drivers.qemu.working_set import GAP_PAGES, PAGE_BYTES, RANGES_MAX

PAGES = 512


@pytest.fixture
def memory() -> Iterator[Path]:
    """On tmpfs, as the memory of a running guest; a disk's file systems may map larger pieces."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "memory"
        path.write_bytes(b"m" * PAGES * PAGE_BYTES)
        yield path


def test_touched_pages_are_found(memory: Path) -> None:
    with memory.open("r+b") as file, mmap.mmap(file.fileno(), PAGES * PAGE_BYTES) as mapping:
        mapping.madvise(mmap.MADV_RANDOM)
        for page in (0, 1, 300):
            mapping[page * PAGE_BYTES] = 1
        found = working_set.touched(os.getpid(), memory)
    pages = {page for first, count in found for page in range(first, first + count)}
    assert {0, 1, 300} <= pages
    assert len(pages) < PAGES // 2  # the kernel maps some neighbours that are in the cache


def test_nothing_is_known_of_a_process_without_the_file(memory: Path) -> None:
    assert working_set.touched(os.getpid(), memory) == []
    assert working_set.touched(2**22 + 1, memory) == []
    assert working_set.touched(os.getpid(), memory.with_name("gone")) == []


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    working_set.record(tmp_path, [(0, 2), (300, 1)])
    assert working_set.recorded(tmp_path) == [(0, 2), (300, 1)]


@pytest.mark.parametrize("text", ["", "{", "[[1]]", '[["a",1]]', "[[-5,1],[3,0],[4,-1]]", "[" * 100_000])
def test_a_bad_record_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / working_set.NAME).write_text(text)
    assert working_set.recorded(tmp_path) == []


def test_no_record(tmp_path: Path) -> None:
    assert working_set.recorded(tmp_path) == []


def test_small_gaps_are_read_along() -> None:
    assert working_set._bounded([(0, 1), (1 + GAP_PAGES, 1), (100, 5)]) == [(0, GAP_PAGES + 2), (100, 5)]


def test_a_record_keeps_the_longest_ranges() -> None:
    many = [(index * 100, 1 + index % 2) for index in range(2 * RANGES_MAX)]
    kept = working_set._bounded(many)
    assert len(kept) == RANGES_MAX
    assert {count for _, count in kept} == {2}
    assert kept == sorted(kept)


def test_only_what_lies_in_the_file_is_read(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory.open("rb") as file:
        asked = working_set.read_ahead(file.fileno(), [(0, 2), (PAGES - 1, 50), (PAGES + 7, 1), (2**50, 1)])
        assert asked == 3 * PAGE_BYTES
        monkeypatch.setattr(working_set, "READ_AHEAD_MAX_BYTES", 5 * PAGE_BYTES)
        assert working_set.read_ahead(file.fileno(), [(0, 4), (10, 4), (20, 4)]) == 5 * PAGE_BYTES
