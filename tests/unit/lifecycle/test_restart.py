"""What follows an exit, by policy."""

from __future__ import annotations

import msgspec
import pytest

from midge.lifecycle.restart import BACKOFF_MAX_S, Verdict, after_exit, backoff_s
from midge.machine.config import MachineConfig
from midge.machine.spec import ExitStatus


def verdict(
    code: int, config: dict[str, object] | None = None, *, requested: bool = False, retries: int = 0
) -> Verdict:
    decoded = msgspec.convert(config or {}, MachineConfig)
    recent = [1000.0 - n for n in range(retries)]
    return after_exit(
        decoded, ExitStatus(exit_code=code), requested=requested, retries_s=recent, now_s=1000.0
    )


def test_on_failure_is_the_default() -> None:
    assert verdict(0).then == "stop"
    assert verdict(1).then == "restart"


def test_retries_end_and_older_ones_do_not_count() -> None:
    config = {"restart": {"policy": "on-failure", "max_retries": 2}}
    assert verdict(1, config, retries=1).then == "restart"
    assert verdict(1, config, retries=2).then == "stop"
    old = after_exit(
        msgspec.convert(config, MachineConfig),
        ExitStatus(exit_code=1),
        requested=False,
        retries_s=[100.0, 200.0],
        now_s=1000.0,
    )
    assert old.then == "restart"


def test_always_restarts_on_success_too() -> None:
    assert verdict(0, {"restart": {"policy": "always"}}).then == "restart"


def test_no_never_restarts() -> None:
    assert verdict(1, {"restart": {"policy": "no"}}).then == "stop"


def test_a_requested_stop_is_never_undone() -> None:
    assert verdict(1, {"restart": {"policy": "always"}}, requested=True).then == "stop"


def test_auto_destroy_destroys_where_it_would_rest() -> None:
    assert verdict(0, {"auto_destroy": True}).then == "destroy"
    assert verdict(1, {"auto_destroy": True}).then == "restart"


@pytest.mark.parametrize(
    ("retries", "seconds"), [(0, 0.0), (1, 1.0), (2, 2.0), (4, 8.0), (50, BACKOFF_MAX_S)]
)
def test_back_off_begins_at_once_and_doubles(retries: int, seconds: float) -> None:
    assert backoff_s(retries) == seconds
