"""Every promise on the page about forks links to a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "fork-safety.md"
LINK = re.compile(r"\[([\w.]+)::(\w+)\]\(([^)]+)\)")


def rows() -> list[str]:
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    return lines[2:]


def functions_of(path: Path) -> set[str]:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, functions)}


def test_every_row_links_to_a_test_that_exists() -> None:
    assert rows()
    for row in rows():
        links = LINK.findall(row)
        assert links, f"no test: {row}"
        for file, name, target in links:
            path = (DOCS / target).resolve()
            assert path.name == file
            assert path.is_file(), target
            assert name in functions_of(path), f"{file} has no {name}"


def test_every_test_is_on_the_page() -> None:
    folder = DOCS.parent / "tests" / "integration" / "qemu"
    links = LINK.findall(PAGE.read_text("utf-8"))
    linked = {(file, name) for file, name, target in links if (DOCS / target).resolve().parent == folder}
    found = {
        (path.name, name)
        for path in folder.glob("test_*.py")
        for name in functions_of(path)
        if name.startswith("test_")
    }
    assert found == linked
