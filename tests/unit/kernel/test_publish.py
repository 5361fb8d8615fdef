from __future__ import annotations

from pathlib import Path

import pytest

from midge.kernel import publish


def test_a_directory_appears_with_all_its_files(tmp_path: Path) -> None:
    target = publish.directory(tmp_path / "a/b", {"x": b"1", "d/y": b"2"}, scratch=tmp_path / "tmp")
    assert (target / "x").read_bytes() == b"1"
    assert (target / "d/y").read_bytes() == b"2"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    publish.directory(tmp_path / "a", {"x": b"1"}, scratch=tmp_path / "tmp")
    publish.directory(tmp_path / "a", {"x": b"2"}, scratch=tmp_path / "tmp")
    assert (tmp_path / "a/x").read_bytes() == b"1"


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    publish.directory(tmp_path / "a", {"x": b"1"}, scratch=tmp_path / "tmp")
    assert (tmp_path / "a/x").read_bytes() == b"1"


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        publish.directory(tmp_path / "a", {"x": b"1", "y" * 300: b""}, scratch=tmp_path / "tmp")
    assert not (tmp_path / "a").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    publish.replace(tmp_path / "f", b"new", scratch=tmp_path / "tmp")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_removing_what_is_not_there_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        publish.remove(tmp_path / "a", scratch=tmp_path / "tmp")
