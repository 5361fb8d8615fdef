"""The container driver on this host; see `tests.contract.drivers.kit`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.drivers.kit import Kit, container_kit


@pytest.fixture(scope="session")
def cache() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="midge-container-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mi-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def kit(home: Path, cache: Path) -> AsyncIterator[Kit]:
    async with container_kit(home, cache) as made:
        yield made
