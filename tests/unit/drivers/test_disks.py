"""Copies of sparse files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from midge.drivers import disks

PAGE = disks.PAGE_BYTES


def _copy(source: Path, target: Path, copy: Callable[[int, int], int]) -> int:
    with contextlib.ExitStack() as stack:
        return copy(
            disks.opened(stack, disks.read_only(source)), disks.opened(stack, disks.create(target, None))
        )


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """Data, a hole, a page of zeros that takes room, data up to the middle of a page, a hole to the end."""
    path = tmp_path / "source"
    with path.open("wb") as file:
        file.write(b"a" * PAGE)
        file.seek(64 * PAGE)
        file.write(bytes(PAGE) + b"b" * (PAGE + 100))
        file.truncate(200 * PAGE + 7)
    return path


@pytest.mark.parametrize("copy", [disks.copy_sparse, disks.copy_without_zeros])
def test_a_copy_reads_the_same(sparse: Path, tmp_path: Path, copy: Callable[[int, int], int]) -> None:
    _copy(sparse, tmp_path / "copy", copy)
    assert (tmp_path / "copy").read_bytes() == sparse.read_bytes()


def test_pages_of_zeros_take_no_room(sparse: Path, tmp_path: Path) -> None:
    assert _copy(sparse, tmp_path / "copy", disks.copy_without_zeros) < _copy(
        sparse, tmp_path / "other", disks.copy_sparse
    )
    with (tmp_path / "copy").open("rb") as file:
        assert os.lseek(file.fileno(), 64 * PAGE, os.SEEK_DATA) == 65 * PAGE


@pytest.mark.parametrize("size", [0, 1, PAGE, 3 * PAGE + 1])
def test_a_file_of_nothing_but_a_hole(tmp_path: Path, size: int) -> None:
    (tmp_path / "source").touch()
    os.truncate(tmp_path / "source", size)
    assert _copy(tmp_path / "source", tmp_path / "copy", disks.copy_without_zeros) == 0
    assert (tmp_path / "copy").stat().st_size == size
