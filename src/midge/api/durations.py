"""Durations that come in requests."""

from __future__ import annotations

from midge.errors import InvalidInput
from midge.machine import duration

TEXT_MAX = 32  # characters: longer ones are no durations, and big numbers are slow to read
NUMBER_MAX = 1 << 62


def request_seconds(given: str | int, *, field: str, number_unit_s: float) -> float:
    """A duration in seconds.

    Raises:
        InvalidInput: in the form requests get it.
    """
    if (isinstance(given, str) and len(given) > TEXT_MAX) or (
        isinstance(given, int) and abs(given) > NUMBER_MAX
    ):
        raise InvalidInput(f"invalid_argument: {field}: not a duration")
    try:
        return duration.seconds(given, field=field, bare_number_unit_s=number_unit_s)
    except InvalidInput as error:
        raise InvalidInput(f"invalid_argument: {error}", hint=error.hint) from error
