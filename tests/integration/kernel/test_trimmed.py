"""The configuration fragment against the real kernel source; compiling takes minutes and is not done here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from midge.errors import NotFound
from midge.kernel import trimmed

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A kernel is not built in a path with a space, as a folder for temporary files may have."""
    with tempfile.TemporaryDirectory(prefix="midge-kernel-", dir="/var/tmp") as path:
        yield Path(path)


async def test_the_kernel_source_keeps_every_option_of_the_fragment(folder: Path) -> None:
    try:
        archive = trimmed.find_source()
    except NotFound as error:
        pytest.skip(f"{error}: {error.hint}")
    tree, output = await trimmed.unpack(archive, folder, lambda line: None)
    await trimmed.configure(tree, output)
    assert "CONFIG_PVH=y\n" in (output / ".config").read_text()
