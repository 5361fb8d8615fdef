"""Every operation twice, failing and killed at each step, on the mock driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from midge.drivers.base import Driver
from midge.drivers.mock import MockDriver
from midge.testing.worker import FakeImages, mock_order
from midge.worker.parts import Images, Settings
from tests.contract import operations
from tests.contract.operations import CASES, Case

pytestmark = pytest.mark.anyio

SUSPEND_MS = 5  # long enough to be interrupted


class MockKit:
    def __init__(self, root: Path) -> None:
        self.config: dict[str, Any] = {"metadata": mock_order(suspend_ms=SUSPEND_MS)}
        self._root = root

    def driver(self) -> Driver:
        return MockDriver(self._root)

    def images(self) -> Images:
        return FakeImages()

    def settings(self, root: Path) -> Settings:
        return Settings(logs_dir=root / "logs")

    def leftovers(self, running: set[str], suspended: set[str], existing: set[str]) -> list[str]:
        host = MockDriver(self._root).host
        found = host.leftovers()
        return [
            *(f"run/{name}" for name in found["run"] ^ running),
            *(f"prepared/{name}" for name in found["prepared"] ^ existing),
            *(f"snapshots/{name}" for name in found["snapshots"] ^ suspended),
        ]


@pytest.fixture
def kit(tmp_path: Path) -> MockKit:
    return MockKit(tmp_path / "mock")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_step_may_run_twice(tmp_path: Path, kit: MockKit, case: Case) -> None:
    await operations.each_step_twice(tmp_path, kit, case)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_step_may_fail(
    tmp_path: Path, kit: MockKit, case: Case, when: Literal["before", "after"]
) -> None:
    assert await operations.each_step_failing(tmp_path, kit, case, when) >= 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_worker_may_be_killed_at_each_write(
    tmp_path: Path, kit: MockKit, case: Case, when: Literal["before", "after"]
) -> None:
    assert await operations.killed_at_each_write(tmp_path, kit, case, when) >= 2
