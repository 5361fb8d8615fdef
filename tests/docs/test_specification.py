"""The specification points at tests and modules that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["SPECIFICATION.md", "ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = [link.split("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_specification_names_tests_and_modules_that_exist() -> None:
    text = (ROOT / "SPECIFICATION.md").read_text()
    paths = re.findall(r"`((?:tests|rust|docs)/[^`]+)`", text)
    assert [path for path in paths if not (ROOT / path).exists() and "target" not in path] == []
    modules = re.findall(r"`(midge\.[a-z_.]+)`", text)
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
