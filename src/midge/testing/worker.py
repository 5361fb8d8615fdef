"""A whole worker in a test: mock driver, fake images, real database."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from midge.clock import Clock, SystemClock
from midge.drivers.base import Driver
from midge.drivers.mock import MockDriver
from midge.errors import ImageNotFound
from midge.ids import new_machine_id, new_name
from midge.images.reference import parse
from midge.machine.config import MachineConfig
from midge.operations.engine import Engine, Journal
from midge.store.sqlite import Database
from midge.worker.catalog import Catalog
from midge.worker.host import CreateMachine, ImageRefView
from midge.worker.parts import Images, Parts, RunJournal, Settings
from midge.worker.record import ImageProcess, ImageResult
from midge.worker.running import running
from midge.worker.worker import Worker

# Seconds until a machine has settled: far more than it takes, for hosts that do something else meanwhile.
SETTLED_TIMEOUT_S = 60.0
MIGRATIONS = Path(__file__).parents[1] / "store" / "migrations" / "host"


class FakeImages:
    """Knows every image but those named ``missing…``; an image's digest is the hash of its name."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.fetch_error: Exception | None = None

    async def resolve(self, reference: str) -> ImageRefView:
        if reference.startswith("missing"):
            raise ImageNotFound(f"no image {reference}")
        digest = "sha256:" + hashlib.sha256(reference.encode()).hexdigest()
        named = parse(reference)
        return ImageRefView(
            registry=named.registry, repository=named.repository, tag=named.tag, digest=digest
        )

    async def fetch(self, ref: ImageRefView) -> ImageResult:
        if self.fetch_error is not None:
            raise self.fetch_error
        self.fetched.append(ref.digest)
        return ImageResult(ref=ref, process=ImageProcess(cmd=["/bin/true"], env=["PATH=/bin"]))


@contextlib.asynccontextmanager
async def running_worker(
    root: Path,
    *,
    driver: Driver | None = None,
    images: Images | None = None,
    clock: Clock | None = None,
    settings: Settings | None = None,
    database: Callable[[Path, Path], Database] = Database,
    engine: Callable[[Journal], Engine] = Engine,
) -> AsyncIterator[Worker]:
    """A worker on `root`; one that is opened on the same root later finds its machines."""
    clock = clock or SystemClock()
    store = database(root / "host.db", MIGRATIONS)
    await store.open()
    parts = Parts(
        settings=settings or Settings(logs_dir=root / "logs", destroyed_kept_s=600.0),
        clock=clock,
        database=store,
        catalog=Catalog(clock),
        driver=driver or MockDriver(root / "mock", clock),
        images=images or FakeImages(),
        engine=engine(RunJournal(store)),
    )
    worker = Worker(parts)
    try:
        async with running(worker):
            yield worker
    finally:
        await store.aclose()


def create_request(*, skip_launch: bool = False, app: str = "test", **config: Any) -> CreateMachine:
    """A create request; keyword arguments are members of its configuration."""
    raw = msgspec.json.encode({"image": "busybox", **config})
    return CreateMachine(
        id=new_machine_id(),
        app=app,
        name=new_name(),
        region="local",
        config=msgspec.json.decode(raw, type=MachineConfig),
        config_json=raw,
        skip_launch=skip_launch,
    )


def mock_order(**order: Any) -> dict[str, str]:
    """Metadata that orders a mock machine's behaviour."""
    return {"midge.mock": msgspec.json.encode(order).decode()}


async def settled(worker: Worker, machine_id: str, *states: str, timeout_s: float = SETTLED_TIMEOUT_S) -> str:
    """Waits for one of `states` (default: any resting state) and returns it."""
    result = await worker.parts.catalog.wait(machine_id, states or ("settled",), "", timeout_s)
    return result.state
