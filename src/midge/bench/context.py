"""What a benchmark works with, and what it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from midge.bench.api import MEMORY_MB, Api
from midge.bench.model import Measurement, Phases, Report, Skipped
from midge.bench.target import SCRATCH, Target

DRIVERS = ("mock", "container", "qemu")
SAMPLES_MAX = 10_000
CONCURRENCY_MAX = 500
MACHINES_MAX = 100_000
# Of the memory that is free now, how much a burst of machines may take; the rest keeps the host from swapping.
MEMORY_SHARE = 0.8
MACHINE_COST_MB = (
    160  # of one that has just started, VMM and all; what it may take in all is 256 MiB and its VMM
)
# Of one benchmark on one server, for its rounds: all of them, with all drivers and kernels, end within 20 minutes.
ROUNDS_S = 45.0
ROUNDS_MIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run was asked for.

    Attributes:
        samples: of each series; None: what the benchmark thinks right.
        concurrency: machines and clients where many things happen at once.
        machines: stopped ones, for what grows with their number.
        floors: whether to measure the same work without Midge, too.
        peers: whether to measure podman and docker, where they are installed.
        scratch: parent of the data directories.
    """

    samples: int | None = None
    concurrency: int = 50
    machines: int = 10_000
    floors: bool = True
    peers: bool = False
    scratch: Path = SCRATCH


# Shows that everything works, in a few minutes; the figures are worth nothing.
QUICK = Options(samples=3, concurrency=5, machines=200)


@dataclass(slots=True, kw_only=True)
class Context:
    """One benchmark on one server. `vain`: how often the host was waited for, and did not become quiet, in a row."""

    bench: str
    target: Target
    api: Api
    options: Options
    report: Report
    note: Callable[[str], None]
    vain: int = 0

    def samples(self, default: int) -> int:
        return self.options.samples or default

    def rounds(self, default: int, *, warm_up: int = 0, time_s: float = ROUNDS_S) -> Iterator[int]:
        """Numbers of rounds: `warm_up` negative ones, then as many as are wanted and there is time for."""
        wanted, begun = self.samples(default), monotonic()
        for index in range(-warm_up, wanted):
            if index >= ROUNDS_MIN and self.options.samples is None and monotonic() - begun > time_s:
                self.note(f"{self.bench}: {index} of {wanted} rounds in {time_s:g} s, that must do")
                return
            yield index

    def burst(self) -> tuple[int, str]:
        """How many machines may run at once here, and why it is fewer than asked for."""
        wanted = self.options.concurrency
        if self.target.driver == "mock" or self.target.own is None:
            return wanted, ""
        fit = max(1, int(available_mb() * MEMORY_SHARE) // MACHINE_COST_MB)
        return (wanted, "") if fit >= wanted else (fit, f"{fit} instead of {wanted}: memory")

    def record(
        self, name: str, samples: Iterable[float], *, unit: str = "ms", floor: str = "", note: str = ""
    ) -> None:
        """Keeps a series. Nothing for one without samples."""
        kept = [round(sample, 4) for sample in samples]
        if not kept:
            return
        self.report.measurements.append(
            Measurement(
                bench=self.bench,
                driver=self.target.driver,
                variant=self.target.variant,
                name=name,
                unit=unit,
                samples=kept,
                floor=floor,
                note=note,
            )
        )

    def record_phases(self, starts: Sequence[Sequence[tuple[str, float]]], *, way: str = "") -> None:
        """Phases of many starts that went the same way, in the order of the first one."""
        if not starts:
            return
        names = [name for name, _ in starts[0]]
        series = [(name, [dict(start)[name] for start in starts if name in dict(start)]) for name in names]
        self.report.phases.append(
            Phases(
                bench=self.bench,
                driver=self.target.driver,
                variant=self.target.variant,
                way=way,
                phases=series,
            )
        )

    def skip(self, reason: str) -> None:
        self.report.skipped.append(
            Skipped(bench=self.bench, driver=self.target.driver, variant=self.target.variant, reason=reason)
        )

    @asynccontextmanager
    async def machines(self, count: int, *, memory_mb: int = MEMORY_MB) -> AsyncIterator[list[str]]:
        """Created, not started; destroyed on leaving."""
        created = await self.api.create_many(count, memory_mb=memory_mb)
        try:
            yield created
        finally:
            await self.api.destroy_many(created)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: on the command line.
        about: one line.
        run: measures, and records into the context. Raises CannotMeasure to be skipped.
        drivers: it makes sense with; the first is the default where the wanted one is not among them.
        each_kernel: repeated for every guest kernel.
        fresh_server: wants a server that has done nothing yet.
    """

    name: str
    about: str
    run: Callable[[Context], Awaitable[None]]
    drivers: tuple[str, ...] = DRIVERS
    each_kernel: bool = False
    fresh_server: bool = False


def available_mb() -> int:
    """Memory that can be had without swapping, MiB (proc_meminfo(5))."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0
