"""The host's memory."""

from __future__ import annotations

from midge.sys.memory import available_ratio


def test_what_is_available_is_a_part_of_all() -> None:
    assert 0 < available_ratio() < 1
