"""Machines to talk to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import signals
from tests.integration.init import rootfs
from tests.integration.init.guest import ContainerGuest


@pytest.fixture(scope="session")
def base_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = rootfs.missing_tool()
    if reason:
        pytest.skip(reason)
    return rootfs.build(tmp_path_factory.mktemp("root") / "root")


@pytest.fixture
def root(base_root: Path, tmp_path: Path) -> Path:
    """A root of the test's own."""
    return Path(shutil.copytree(base_root, tmp_path / "root", symlinks=True))


@pytest.fixture
def guest(root: Path) -> Iterator[ContainerGuest]:
    # Whoever started the tests may have left signals ignored; init must not pass that on.
    with signals.ignored(*signals.SAMPLES):
        guest = ContainerGuest(root)
    with guest:
        yield guest
