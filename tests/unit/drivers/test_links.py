"""Which guest is which machine's."""

from __future__ import annotations

from pathlib import Path

from midge.drivers.links import MachineLinks


def test_a_link_is_found_replaced_and_removed(tmp_path: Path) -> None:
    links = MachineLinks(tmp_path)
    assert links.find("m1") is None
    links.link("m1", "s1")
    links.link("m1", "s2")
    links.link("m2", "s3")
    assert (links.find("m1"), links.machines(), links.claimed()) == ("s2", {"m1", "m2"}, {"s2", "s3"})
    links.unlink("m1")
    links.unlink("m1")
    assert links.machines() == {"m2"}


def test_drafts_folders_and_files_are_no_machines(tmp_path: Path) -> None:
    (tmp_path / "s1").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / ".m1").symlink_to("s1")
    links = MachineLinks(tmp_path)
    assert links.machines() == set()
    links.link("m1", "s1")  # over the draft that a dead worker left
    assert links.find("m1") == "s1"
