"""By which way machines came up, as the phases the server reports say it. Never by their time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from midge.bench.context import Context
from midge.worker.trace import COLD, way_of

Phases = Sequence[tuple[str, float]]

NEW_VMM = "new VMM"
WAITING_VMM = "waiting VMM"
# What figures are called after the way; a driver that knows but one has its figures without.
NAMES = {"slot": "warm slot", "restore": WAITING_VMM, "parked": "parked", "thaw": "", COLD: ""}
# Drivers whose machines come up by more than one way.
WITH_WAYS = frozenset({"qemu", "container"})


def way(phases: Phases | None, *, resumed: bool = False) -> str:
    """The way's name; empty where there is nothing to tell apart."""
    found = way_of(phases or ())
    if found == "restore" and resumed:
        return "restore"  # there is no other: nothing waits with a machine's own memory
    if found == "restore" and any(name == "spawn" for name, _ in phases or ()):
        return NEW_VMM
    return NAMES[found]


def named(name: str, way: str) -> str:
    return f"{name}, {way}" if way else name


@dataclass(slots=True)
class Way:
    """Runs that went the same way: samples by what was measured, and the phases of each."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    phases: list[Phases] = field(default_factory=list)


@dataclass(slots=True)
class Ways:
    """Samples of one benchmark, by way."""

    driver: str
    resumed: bool = False
    found: dict[str, Way] = field(default_factory=dict)
    unknown: bool = False

    def add(self, phases: Phases | None, **samples: float) -> str:
        """Keeps the samples (`_` in a name stands for a blank) under the way the phases tell; returns the way."""
        self.unknown = self.unknown or not phases
        name = way(phases, resumed=self.resumed) if self.driver in WITH_WAYS else ""
        kept = self.found.setdefault(name, Way())
        for key, value in samples.items():
            kept.samples.setdefault(key.replace("_", " "), []).append(value)
        if phases:
            kept.phases.append(phases)
        return name

    def samples(self, name: str, way: str) -> list[float]:
        found = self.found.get(way)
        return found.samples.get(name, []) if found else []

    def all(self, name: str) -> dict[str, list[float]]:
        """One series, by way."""
        return {way: self.samples(name, way) for way in self.found}

    def record(
        self, ctx: Context, *, floors: dict[str, str] | None = None, notes: dict[str, str] | None = None
    ) -> None:
        """All series, the phases of each way, and what could not be told.

        Args:
            floors, notes: by what was measured; a floor in which ``{way}`` stands is that of the same way.
        """
        if self.unknown and self.driver in WITH_WAYS:
            ctx.skip("the server did not tell the phases of some runs: their way is not known")
        for name in _sorted(self.found):
            kept = self.found[name]
            for what, samples in kept.samples.items():
                ctx.record(
                    named(what, name),
                    samples,
                    floor=(floors or {}).get(what, "").replace("{way}", f", {name}" if name else ""),
                    note=(notes or {}).get(what, ""),
                )
            ctx.record_phases(kept.phases, way=name)


def _sorted(names: Iterable[str]) -> list[str]:
    """The quickest first, as far as that is known."""
    order = ["", NAMES["slot"], "parked", WAITING_VMM, NEW_VMM, "restore"]
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))
