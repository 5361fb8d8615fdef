"""Orders of mock machines."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from midge.drivers.mock.order import DELAY_MAX_MS, EXIT_CODE_MAX, FAILURES_MAX, SIGNAL_MAX, Order, parse
from midge.errors import InvalidInput

VERBS = ("prepare", "start", "stop", "suspend", "resume")


def test_no_order_is_to_run_until_stopped() -> None:
    assert parse("") == parse("{}") == Order()
    assert Order().exit_after_ms is None


def test_members_are_read() -> None:
    order = parse('{"start_ms": 5, "exit_after_ms": 0, "exit_code": 3, "output": "hi", "fail_start": 2}')
    assert order == Order(start_ms=5, exit_after_ms=0, exit_code=3, output="hi", fail_start=2)


@pytest.mark.parametrize(
    "order",
    [
        *({f"{verb}_ms": ms} for verb in VERBS for ms in (-1, DELAY_MAX_MS + 1)),
        *({f"fail_{verb}": n} for verb in VERBS if verb != "stop" for n in (-1, FAILURES_MAX + 1)),
        {"exit_after_ms": -1},
        {"exit_after_ms": DELAY_MAX_MS + 1},
        {"exit_code": -1},
        {"exit_code": EXIT_CODE_MAX + 1},
        {"exit_signal": SIGNAL_MAX + 1},
        {"explode": True},
        {"start_ms": "5"},
    ],
)  # fmt: skip
def test_nonsense_is_refused(order: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"^metadata midge\.mock: "):
        parse(msgspec.json.encode(order).decode())


@pytest.mark.parametrize("text", ["{", "[]", "1", "\0"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text)
