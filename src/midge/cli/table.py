"""Tables of text: one row a resource, columns two spaces apart, no lines, no wrapping."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

GAP = "  "

# What an empty cell shows, so that tools that split at blanks keep their columns.
EMPTY = "-"


def render(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines, header first, without blanks at their ends."""
    cells = [[_cell(value) for value in row] for row in rows]
    table = [list(headers), *cells]
    widths = [max(width(row[column]) for row in table) for column in range(len(headers))]
    return [_line(row, widths) for row in table]


def render_pairs(pairs: Mapping[str, str]) -> list[str]:
    """``Name:  value`` lines with the values in one column."""
    widest = max((width(name) for name in pairs), default=0) + 1
    return [f"{pad(name + ':', widest)}{GAP}{value or EMPTY}".rstrip() for name, value in pairs.items()]


def width(text: str) -> int:
    """Columns of a terminal that `text` takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def pad(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def printable(text: str) -> str:
    """`text` on one line, without anything that could steer a terminal: names and errors may be hostile."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\t\r\n" else "?" for c in text)


def _cell(value: str) -> str:
    return printable(value) or EMPTY


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(pad(cell, columns) for cell, columns in zip(row, widths, strict=True)).rstrip()


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
