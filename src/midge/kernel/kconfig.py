"""Reads kernel configuration fragments, and tells what became of one after `make`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from midge.errors import InvalidInput

_SET = re.compile(r"(CONFIG_[A-Za-z0-9_]+)=(.+)")
_UNSET = re.compile(r"# (CONFIG_[A-Za-z0-9_]+) is not set")

# The value of an option that is off or does not exist: kconfig does not tell them apart either.
OFF = "n"


def parse(text: str) -> dict[str, str]:
    """Options and their values in a .config or a fragment; ``n`` for ``# ... is not set``.

    Raises:
        InvalidInput: a line is neither an option nor a comment nor blank, or an option comes twice.
    """
    options: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if unset := _UNSET.fullmatch(line):
            name, value = unset[1], OFF
        elif not line or line.startswith("#"):
            continue
        elif found := _SET.fullmatch(line):
            name, value = found[1], found[2]
        else:
            raise InvalidInput(f"line {number} of the kernel configuration is no option: {line[:80]!r}")
        if name in options:
            raise InvalidInput(f"line {number} of the kernel configuration sets {name} again")
        options[name] = value
    return options


def dropped(wanted: Mapping[str, str], got: Mapping[str, str]) -> list[str]:
    """Options of `wanted` that have another value in `got`, as ``NAME=wanted (is: got)``, in order.

    kconfig drops an option silently when what it depends on is off or its name has changed.
    """
    return [
        f"{name}={value} (is: {got.get(name, OFF)})"
        for name, value in wanted.items()
        if got.get(name, OFF) != value
    ]
