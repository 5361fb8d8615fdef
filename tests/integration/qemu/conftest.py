"""One host per module on its own folders; templates are shared, since each kind takes a kernel's boot to make."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from midge import binaries
from tests.integration.qemu.house import House

PARKED = 4
PROGRAMS = ("qemu-system-x86_64", "nft", "mkfs.erofs", "mkfs.ext4", "busybox")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """As in all tests, for fixtures that live as long as a module."""
    return "asyncio"


@pytest.fixture(scope="session")
def _able() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    for name in ("midge-shim", "midge-init"):
        try:
            binaries.find(name)
        except binaries.BinaryMissing as error:
            pytest.skip(str(error))


@pytest.fixture(scope="session")
def templates(_able: None) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mi-", dir="/dev/shm"))
    (path / "templates").mkdir()
    yield path / "templates"
    shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def opened(templates: Path, *, warm: int, parked: int = 0) -> AsyncIterator[House]:
    """A house on a new folder; afterwards nothing is left of it."""
    home = Path(tempfile.mkdtemp(prefix="mi-", dir="/dev/shm"))
    home.chmod(0o711)
    try:
        house = House(home, templates=templates, warm=warm, parked=parked)
        await house.open()
        yield house
        await house.end()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
async def house(templates: Path) -> AsyncIterator[House]:
    """Without warm slots, and without parked VMs: each start restores the template, each resume the snapshot."""
    async with opened(templates, warm=0) as made:
        yield made


@pytest.fixture(scope="module")
async def warm_house(templates: Path) -> AsyncIterator[House]:
    """With warm slots."""
    async with opened(templates, warm=4) as made:
        yield made


@pytest.fixture(scope="module")
async def parked_house(templates: Path) -> AsyncIterator[House]:
    """With parked VMs: a resume soon after the suspend finds the VM it was suspended in."""
    async with opened(templates, warm=0, parked=PARKED) as made:
        yield made


@pytest.fixture(scope="module", params=[0, PARKED], ids=["", "parked"])
async def either(request: pytest.FixtureRequest, templates: Path) -> AsyncIterator[House]:
    """Without parked VMs, and with them."""
    async with opened(templates, warm=0, parked=request.param) as made:
        yield made
