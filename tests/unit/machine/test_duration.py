"""Durations as Go writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midge.errors import InvalidInput
from midge.machine.duration import TEXT_MAX, seconds


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("15s", 15.0),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("20us", 20e-6),
        ("20\u00b5s", 20e-6),
        ("20\u03bcs", 20e-6),
        ("7ns", 7e-9),
        (" 2s ", 2.0),
        ("0s", 0.0),
        ("0", 0.0),
        (5_000_000_000, 5.0),
        ("5000000000", 5.0),
        ("+5000000000", 5.0),
    ],
)
def test_reads_go_s_durations_and_nanoseconds(text: str | int, expected_s: float) -> None:
    assert seconds(text, field="timeout") == pytest.approx(expected_s)


def test_a_bare_number_counts_what_the_caller_says() -> None:
    assert seconds("30", field="timeout", bare_number_unit_s=1.0) == 30.0
    assert seconds("30s", field="timeout", bare_number_unit_s=1.0) == 30.0


@pytest.mark.parametrize("text", ["", " ", "s", "5 s", "5d", "1m 30s", "-5s", "1e3s", "5ss", "s5"])
def test_refuses_anything_else_with_the_field_and_a_hint(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^config\.stop_config\.timeout: not a duration") as caught:
        seconds(text, field="config.stop_config.timeout")
    assert "15s" in caught.value.hint


@pytest.mark.parametrize("value", [-1, "-1"])
def test_refuses_what_is_negative(value: str | int) -> None:
    with pytest.raises(InvalidInput, match="timeout: a duration cannot be negative"):
        seconds(value, field="timeout")


@pytest.mark.parametrize("value", [10**400, "9" * 5000, "9" * 400 + "s"])
def test_refuses_numbers_that_no_float_holds(value: str | int) -> None:
    with pytest.raises(InvalidInput, match=r"timeout: (not )?a duration"):
        seconds(value, field="timeout")


@given(st.one_of(st.integers(), st.text(max_size=2 * TEXT_MAX)))
def test_any_input_is_a_duration_or_an_error_for_the_client(value: str | int) -> None:
    try:
        assert seconds(value, field="timeout") >= 0
    except InvalidInput as error:
        assert str(error).startswith("timeout: ")
