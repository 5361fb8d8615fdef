"""Every operation twice, failing and killed at each step, with real machines."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from midge.drivers.base import Driver
from midge.drivers.pool_settings import ParkedSettings
from midge.ids import is_machine_id
from midge.worker.parts import Images, Settings
from midge.worker.store_images import StoreImages
from tests.contract import operations
from tests.contract.drivers.conftest import cache, home
from tests.contract.drivers.kit import KITS, RUNS, Kit
from tests.contract.operations import CASES, Case

__all__ = ["cache", "home"]

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1800)]


class RealKit:
    """`operations.Kit` on a driver whose machines are real. `made` is the driver it has given out last."""

    def __init__(self, kit: Kit) -> None:
        assert kit.parts is not None
        self._kit, self._parts = kit, kit.parts
        self.made: Driver = kit.driver
        self.config: dict[str, Any] = {
            "image": "midge/contract:latest",
            "init": {"exec": ["/bin/sh", "-c", RUNS.script]},
            "guest": {"memory_mb": 256, "cpus": 1},
        }

    def driver(self) -> Driver:
        self.made = self._kit.new_driver()
        return self.made

    def images(self) -> Images:
        return StoreImages(self._parts.images)

    def settings(self, root: Path) -> Settings:
        return Settings(logs_dir=root / "logs", subnet=str(self._parts.subnet))

    def leftovers(self, running: set[str], suspended: set[str], existing: set[str]) -> list[str]:
        if self.made.capabilities.suspend == "freeze":
            running = running | suspended  # in place
        parked = self.made.statistics().get("parked_vms", 0)
        rundir = self._parts.home / "run"
        machines = {path.name for path in rundir.iterdir() if is_machine_id(path.name)}
        places = [path for path in rundir.iterdir() if not path.is_symlink()]
        slots = list(Path("/run/netns").glob(f"mg-{self._parts.net.config.tag}-*"))
        groups = self._parts.cgroups.names()
        return [
            *(f"run/{name}" for name in machines ^ running),
            *(f"place {path.name}" for path in places[len(running) + parked :]),
            *(f"namespace {path.name}" for path in slots[len(running) + parked :]),
            *(f"cgroup {name}" for name in groups[len(running) + parked :]),
        ]


@pytest.fixture(
    params=[
        pytest.param("container", marks=pytest.mark.container),
        pytest.param("qemu", marks=pytest.mark.vm),
        pytest.param("qemu, parked", marks=pytest.mark.vm),
    ]
)
async def kit(request: pytest.FixtureRequest, home: Path, cache: Path) -> AsyncIterator[RealKit]:
    name, _, parked = request.param.partition(", ")
    async with KITS[name](home, cache) as made:
        if parked:
            await made.reconfigure(parked=ParkedSettings())
        await made.driver.aclose()
        yield RealKit(made)
        await made.renew()


@pytest.fixture
def root() -> Iterator[Path]:
    """Short: sockets lie below."""
    with tempfile.TemporaryDirectory(prefix="mo-") as path:
        yield Path(path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_step_may_run_twice(root: Path, kit: RealKit, case: Case) -> None:
    await operations.each_step_twice(root, kit, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_step_may_fail(root: Path, kit: RealKit, case: Case) -> None:
    when: Literal["before", "after"] = "after"
    assert await operations.each_step_failing(root, kit, case, when) >= 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_worker_may_be_killed_at_each_write(root: Path, kit: RealKit, case: Case) -> None:
    when: Literal["before", "after"] = "before"
    assert await operations.killed_at_each_write(root, kit, case, when) >= 2
