"""The generated part of docs/performance.md, between two markers. Pure."""

from __future__ import annotations

from midge.bench import report as text
from midge.bench.model import Report

BEGIN = "<!-- bench:begin, written by `make bench` -->"
END = "<!-- bench:end -->"


def replace(page: str, report: Report) -> str:
    """The page with what is between the markers made anew.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/performance.md needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text.markdown(report)}\n{END}{after}"
