"""What the worker's tasks share: one value, made once, passed to all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from midge.clock import Clock
from midge.drivers.base import Driver
from midge.operations.engine import Engine
from midge.operations.model import Run
from midge.store.sqlite import Database
from midge.worker import table
from midge.worker.catalog import Catalog
from midge.worker.host import ImageRefView
from midge.worker.record import ImageResult
from midge.worker.trace import Traces


class Images(Protocol):
    """The worker's view of the image store."""

    async def resolve(self, reference: str) -> ImageRefView:
        """What the reference stands for now, without fetching it.

        Raises:
            ImageNotFound, RegistryUnavailable, InvalidInput.
        """
        ...

    async def fetch(self, ref: ImageRefView) -> ImageResult:
        """Brings the image here, if it is not."""
        ...


class RunJournal:
    """`operations.engine.Journal` on the host's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def step_done(self, run: Run, step: str, output: Any, next_step: str) -> None:
        columns = table.run_columns(replace(run, step=next_step))
        await self._database.write(lambda connection: table.put_run(connection, columns))


@dataclass(slots=True)
class Settings:
    """Knobs of a worker. Times in seconds, memory in MiB.

    Attributes:
        memory_overcommit: how much more memory started machines may be promised than the host has.
        destroyed_kept_s: how long a destroyed machine still answers, so that clients can read how it ended.
        subnet: where machine addresses come from.
    """

    host_name: str = "local"
    region: str = "local"
    memory_total_mb: int | None = None
    memory_overcommit: float = 1.5
    destroyed_kept_s: float = 600.0
    subnet: str = "10.61.0.0/16"
    logs_dir: Path = field(default_factory=lambda: Path("logs"))


@dataclass(slots=True)
class Parts:
    """A worker's collaborators."""

    settings: Settings
    clock: Clock
    database: Database
    catalog: Catalog
    driver: Driver
    images: Images
    engine: Engine
    traces: Traces = field(default_factory=Traces)

    def free_mb(self) -> int | None:
        """Memory that can still be promised to machines, MiB; None: the driver needs none."""
        if self.settings.memory_total_mb is None:
            return None
        promised = int(self.settings.memory_total_mb * self.settings.memory_overcommit)
        return promised - self.catalog.reserved_mb

    def log_path(self, machine_id: str) -> Path:
        return Path(self.log_file(machine_id))

    def log_file(self, machine_id: str) -> str:
        """As text, for the start path: joining Paths costs more than most of what is done there."""
        return f"{self.settings.logs_dir}/{machine_id}/output.log"
