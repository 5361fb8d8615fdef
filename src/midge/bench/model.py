"""What a run of the benchmarks leaves behind. Raw samples are kept: whoever doubts a figure can look at them."""

from __future__ import annotations

import msgspec

FORMAT = 1


class Measurement(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One series of samples, in the order they were taken.

    Attributes:
        bench: name of the benchmark.
        name: what was measured, such as ``first byte``.
        driver: of the server; empty where none took part.
        variant: what else differs, such as ``kernel=trimmed``.
        floor: name of the measurement of the same bench, driver and variant that this one is compared with.
        note: what a reader has to know to judge it.
    """

    bench: str
    name: str
    unit: str
    samples: list[float]
    driver: str = ""
    variant: str = ""
    floor: str = ""
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.bench, self.driver, self.variant, self.name)


class Phases(msgspec.Struct, kw_only=True, frozen=True):
    """Phases of starts: pairs of a name and the samples of milliseconds from the decision to its end.

    `way`: where starts may go more than one, such as ``warm slot``.
    """

    bench: str
    driver: str
    variant: str
    way: str = ""
    phases: list[tuple[str, list[float]]]


class Skipped(msgspec.Struct, kw_only=True, frozen=True):
    """What was not measured, and why."""

    bench: str
    driver: str
    reason: str
    variant: str = ""


class HostInfo(msgspec.Struct, kw_only=True, frozen=True):
    """The host before the first measurement. Memory in MiB; `versions` of kernel and programs, where installed."""

    cpu_model: str
    cpus: int
    memory_mb: int
    load_before: list[float]
    fsync_ms: list[float]
    data_filesystem: str
    versions: dict[str, str]


class Report(msgspec.Struct, kw_only=True):
    """One run. `acceleration`: by driver and variant, as the server said it."""

    format: int = FORMAT
    midge: str = ""
    begun_at: str = ""
    seconds: float = 0.0
    host: HostInfo | None = None
    acceleration: dict[str, str] = {}
    warnings: list[str] = []
    measurements: list[Measurement] = []
    phases: list[Phases] = []
    skipped: list[Skipped] = []
    interrupted: bool = False

    def find(self, bench: str, driver: str, variant: str, name: str) -> Measurement | None:
        key = (bench, driver, variant, name)
        return next((m for m in self.measurements if m.key == key), None)
