"""What `midge status` says of what waits for starts and resumes."""

from __future__ import annotations

import pytest

from midge.cli.commands.status import _kept


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, ""),
        ({"warm_slots": 1}, "1 warm slot"),
        (
            {"warm_slots": 4, "parked_vms": 2, "parked_memory_mb": 140, "parked_resumed": 9},
            "4 warm slots, 2 parked VMs (140MiB)",
        ),
    ],
)
def test_what_is_kept_ready_in_words(figures: dict[str, int], said: str) -> None:
    assert _kept(figures) == said
