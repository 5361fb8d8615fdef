"""Every test that takes `kit` runs against every driver; one whose host cannot run it is skipped with the reason."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.drivers.kit import KITS, Kit

_ROOT = [pytest.mark.slow, pytest.mark.root]


@pytest.fixture(scope="session")
def cache() -> Iterator[Path]:
    """Images, templates and blank layers, made once for all tests of a session."""
    path = Path(tempfile.mkdtemp(prefix="midge-contract-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def home() -> Iterator[Path]:
    """Short, since socket paths are; on memory where there is, as run directories are."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="mc-", dir=memory if memory.is_dir() else None))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(
    params=[
        "mock",
        pytest.param("container", marks=[pytest.mark.container, *_ROOT]),
        pytest.param("warm container", marks=[pytest.mark.container, *_ROOT]),
        pytest.param("qemu", marks=[pytest.mark.vm, *_ROOT]),
        pytest.param("firecracker", marks=[pytest.mark.vm, *_ROOT]),
    ]
)
async def kit(request: pytest.FixtureRequest, home: Path, cache: Path) -> AsyncIterator[Kit]:
    async with KITS[request.param](home, cache) as made:
        yield made


@pytest.fixture
def real(kit: Kit) -> Kit:
    """A driver whose machines run programs."""
    if not kit.real:
        pytest.skip("mock machines run no programs")
    return kit
