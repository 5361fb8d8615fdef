"""Fixtures of the image tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.images.jail import Jail


@pytest.fixture
def jail(tmp_path: Path) -> Jail:
    return Jail(tmp_path)
