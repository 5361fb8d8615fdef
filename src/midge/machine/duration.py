"""Durations as the Machines API writes them: Go strings, or integer nanoseconds."""

from __future__ import annotations

import re

from midge.errors import InvalidInput

_UNITS_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
TEXT_MAX = 64  # characters of a duration; Go's longest has 22
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")


def seconds(value: str | int, *, field: str, bare_number_unit_s: float = 1e-9) -> float:
    """A duration in seconds.

    Args:
        value: ``"1m30s"``, ``"500ms"``, ``"0s"``, or a number; a string of digits counts as a number.
        field: named in the error.
        bare_number_unit_s: what a bare number counts, in seconds (nanoseconds in configurations, seconds in
            ``/restart?timeout=``).

    Raises:
        InvalidInput: not a duration, negative, or longer than anybody could mean.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 1 << 63:
            raise InvalidInput(f"{field}: a duration has at most 64 bits")
        total = value * bare_number_unit_s
    else:
        text = str(value).strip()
        if len(text) > TEXT_MAX:
            raise InvalidInput(f"{field}: not a duration: more than {TEXT_MAX} characters")
        if re.fullmatch(r"[+-]?\d+", text):
            total = int(text) * bare_number_unit_s
        else:
            total = _parse(text, field)
    if total < 0:
        raise InvalidInput(f"{field}: a duration cannot be negative: {value!r}")
    return total


def _parse(text: str, field: str) -> float:
    position, total = 0, 0.0
    for match in _PART.finditer(text):
        if match.start() != position:
            break
        total += float(match[1]) * _UNITS_S[match[2]]
        position = match.end()
    if position != len(text) or not text:
        raise InvalidInput(
            f"{field}: not a duration: {text!r}", hint='write it as "15s", "1m30s" or nanoseconds'
        )
    return total
