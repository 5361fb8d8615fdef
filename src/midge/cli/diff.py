"""What changes between two configurations, a line a member."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

# Longest value shown, in characters: a file's contents say nothing in base64.
VALUE_MAX = 60

_ABSENT = object()


def lines(before: Any, after: Any) -> list[str]:
    """``~ guest.memory_mb: 256 -> 512``, ``+ env.A: "1"``, ``- files[/etc/app.conf]: …``; empty: nothing changes.

    Members that are absent, null or empty on both sides count as equal: the server fills them in.
    """
    old, new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    found = []
    for path in sorted(old.keys() | new.keys()):
        a, b = old.get(path, _ABSENT), new.get(path, _ABSENT)
        if a is _ABSENT:
            found.append(f"+ {path}: {_shown(b)}")
        elif b is _ABSENT:
            found.append(f"- {path}: {_shown(a)}")
        elif a != b:
            found.append(f"~ {path}: {_shown(a)} -> {_shown(b)}")
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{_name(inner, index)}]")
    elif value is not None and value != [] and value != "":
        yield path, value


def _name(item: Any, index: int) -> str:
    """What identifies an element, so that one put in front does not change all the others."""
    if isinstance(item, dict):
        for key in ("guest_path", "path", "internal_port", "port", "name"):
            if key in item:
                return str(item[key])
    return str(index)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_MAX else f"{text[: VALUE_MAX - 3]}..."
