from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from midge.kernel import cpio


def test_one_file_gives_the_bytes_of_the_format() -> None:
    expected = (
        b"070701"
        b"00000001" b"000081A4" b"00000000" b"00000000" b"00000001" b"00000000" b"00000003"
        b"00000000" b"00000000" b"00000000" b"00000000" b"00000002" b"00000000"
        b"a\0" b"abc\0"
        b"070701"
        b"00000000" b"00000000" b"00000000" b"00000000" b"00000001" b"00000000" b"00000000"
        b"00000000" b"00000000" b"00000000" b"00000000" b"0000000B" b"00000000"
        b"TRAILER!!!\0" b"\0\0\0"
    )  # fmt: skip
    assert cpio.archive([cpio.file("a", b"abc")]) == expected


def test_same_entries_give_same_bytes() -> None:
    entries = [cpio.directory("d"), cpio.file("d/f", b"x" * 5), cpio.symlink("l", "d/f")]
    assert cpio.archive(entries) == cpio.archive(entries)


def test_every_member_starts_on_a_multiple_of_four() -> None:
    for length in range(9):
        data = cpio.archive([cpio.file("n" * (length + 1), b"x" * length)])
        assert len(data) % 4 == 0
        assert data.rindex(b"070701") % 4 == 0


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_reads_it_back(tmp_path: Path) -> None:
    data = cpio.archive(
        [cpio.directory("d", 0o750), cpio.file("d/f", b"hello", 0o640), cpio.symlink("link", "d/f")]
    )
    listing = subprocess.run(["cpio", "-t", "--quiet"], input=data, capture_output=True, check=True)
    assert listing.stdout.decode().split() == ["d", "d/f", "link"]
    subprocess.run(["cpio", "-i", "--quiet"], input=data, cwd=tmp_path, check=True)
    assert (tmp_path / "d/f").read_bytes() == b"hello"
    assert (tmp_path / "d/f").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link").readlink() == Path("d/f")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_device_node_keeps_its_numbers() -> None:
    data = cpio.archive([cpio.directory("dev"), cpio.char_device("dev/console", 5, 1)])
    listing = subprocess.run(
        ["cpio", "-tv", "--quiet"],
        input=data,
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    console = listing.stdout.decode().splitlines()[1]
    assert console.startswith("crw-------")
    assert "5,   1" in console


@pytest.mark.parametrize("name", ["", "/a", "a\0b", "x" * 4096, "TRAILER!!!"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="archive"):
        cpio.archive([cpio.file(name, b"")])


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="already"):
        cpio.archive([cpio.file("a", b""), cpio.file("a", b"")])


def test_a_child_before_its_directory_is_refused() -> None:
    with pytest.raises(ValueError, match="before its directory"):
        cpio.archive([cpio.file("d/f", b""), cpio.directory("d")])
