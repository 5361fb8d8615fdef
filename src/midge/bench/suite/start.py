"""Starting a stopped machine: request sent until its process has printed its first byte.

In turns with the floor, so that whatever else the host does meets both alike.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from time import perf_counter

from midge.bench.api import over
from midge.bench.context import Benchmark, Context
from midge.bench.errors import CannotMeasure
from midge.bench.floor.base import Floor, open_floor
from midge.bench.floor.peers import open_peers
from midge.bench.http import Connection
from midge.bench.observe import Observer, observe

SAMPLES = 30
SAMPLES_MOCK = 200
WARM_UP = 3
PAUSE_S = 0.1  # between samples: refilling of pools after the one before is not this one's
# Of a driver with warm slots: until the one that was taken has been made anew, restored and warmed, on a busy host.
REFILL_S = 2.5
WITH_SLOTS = ("qemu",)
WARM_PHASE = "slot"  # marked by a start that took a warm slot
FLOOR = "floor: first byte"


async def run(ctx: Context) -> None:
    driver = ctx.target.driver
    async with ctx.machines(2 if driver in WITH_SLOTS else 1) as machines:
        await (_mock(ctx, machines[0]) if driver == "mock" else _real(ctx, machines))
    await _burst(ctx)


async def _mock(ctx: Context, machine: str) -> None:
    """A mock machine prints nothing: the answer says that it has started."""
    start, times, starts = ctx.api.start(machine), [], []
    for index in range(WARM_UP + ctx.samples(SAMPLES_MOCK)):
        answer = await ctx.api.ask(start)
        if index >= WARM_UP:
            times.append(answer.ms)
            starts.append(await ctx.api.phases(machine))
        await ctx.api.stopped(machine)
    ctx.record("started", times)
    ctx.record_phases([phases for phases in starts if phases])


async def _real(ctx: Context, machines: list[str]) -> None:
    """One machine after another, then the floor.

    With warm slots there are two machines: the first takes the slot, the second starts at once behind it and finds
    none, before the driver begins to make the next one. So both ways are measured on a host that does nothing else.
    """
    async with AsyncExitStack() as stack:
        observers = [await stack.enter_async_context(observe(ctx.target, ctx.api, one)) for one in machines]
        for machine, observer in zip(machines, observers, strict=True):
            await _start(ctx, machine, observer)
        # Built from what a running machine looks like, so before it is stopped.
        others = await _others(ctx, machines[0], stack)
        for machine in machines:
            await ctx.api.stopped(machine)
        series, pause_s = _Series(), PAUSE_S if len(machines) == 1 else REFILL_S
        for index in range(WARM_UP + ctx.samples(SAMPLES)):
            await asyncio.sleep(pause_s)
            pairs = list(zip(machines, observers, strict=True))
            samples = [await _start(ctx, machine, observer) for machine, observer in pairs]
            phases = [await ctx.api.phases(machine) for machine in machines]
            for machine in machines:
                await ctx.api.stopped(machine)
            if index >= WARM_UP:
                for sample, its_phases in zip(samples, phases, strict=True):
                    series.add(sample, its_phases)
            for floor in others:
                await asyncio.sleep(pause_s)
                times = await floor.once()
                if index >= WARM_UP:
                    series.add_floor(times)
        series.record(ctx, observers[0], bool(others))


async def _others(ctx: Context, machine: str, stack: AsyncExitStack) -> list[Floor]:
    """Floor and peers that can be had; the reasons for those that cannot are in the report."""
    found: list[Floor] = []
    if ctx.options.floors and ctx.target.own is not None:
        try:
            found.append(await stack.enter_async_context(open_floor(ctx.target, machine)))
        except CannotMeasure as error:
            ctx.skip(f"floor: {error}")
    if ctx.options.peers and ctx.target.driver == "container":
        found += await stack.enter_async_context(open_peers(ctx))
    return found


@dataclass(slots=True)
class _Way:
    """Starts that went the same way."""

    first_byte: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    phases: list[list[tuple[str, float]]] = field(default_factory=list)


class _Series:
    """Samples of one run, by what they are. `ways`: cold (restored for it) and warm (took a slot)."""

    def __init__(self) -> None:
        self.ways = {False: _Way(), True: _Way()}
        self.lag: list[float] = []
        self.floors: dict[str, list[float]] = {}
        self.unknown = False

    def add(self, sample: tuple[float, float, float | None], phases: list[tuple[str, float]] | None) -> None:
        first_byte, answered, lag = sample
        self.unknown = self.unknown or not phases
        way = self.ways[any(name == WARM_PHASE for name, _ in phases or ())]
        way.first_byte.append(first_byte)
        way.answered.append(answered)
        if lag is not None:
            self.lag.append(lag)
        if phases:
            way.phases.append(phases)

    def add_floor(self, times: dict[str, float]) -> None:
        for name, value in times.items():
            self.floors.setdefault(name, []).append(value)

    def record(self, ctx: Context, observer: Observer, floor: bool) -> None:
        seen = f"seen through the {observer.kind}"
        if self.unknown and ctx.target.driver in WITH_SLOTS:
            ctx.skip("the server did not tell the phases of starts: warm ones cannot be told from others")
        for warm, suffix in ((False, ""), (True, ", warm slot")):
            way = self.ways[warm]
            ctx.record(f"first byte{suffix}", way.first_byte, floor=FLOOR if floor else "", note=seen)
            ctx.record(f"started{suffix}", way.answered, note="the answer to the request")
            ctx.record_phases(way.phases, way=suffix.removeprefix(", "))
        for name, samples in self.floors.items():
            ctx.record(name, samples)
        note = "from the shim's reading of the byte until it was seen here; part of `first byte`"
        ctx.record("observer", self.lag, note=note)


async def _start(ctx: Context, machine: str, observer: Observer) -> tuple[float, float, float | None]:
    """Milliseconds to the first byte and to the answer, and the observer's part."""
    observer.arm()
    begun = perf_counter()
    answering = ctx.api.connection.send(ctx.api.start(machine))
    seen = await observer.first_byte()
    answer = await answering
    if answer.status != 200:
        raise CannotMeasure(
            f"start was answered {answer.status}: {answer.body[:300].decode(errors='replace')}"
        )
    return (seen.at - begun) * 1000, answer.ms, seen.lag_ms


async def _burst(ctx: Context) -> None:
    """Many machines at once, one client each."""
    count, note = ctx.burst()

    async def one(connection: Connection, machine: str) -> float:
        return (await connection.ask(ctx.api.start(machine))).ms

    async with ctx.machines(count) as machines:
        begun = perf_counter()
        times = await over(ctx.api.server, machines, count, one)
        seconds = perf_counter() - begun
    ctx.record(f"started, {count} at once", times, note=note)
    ctx.record(f"starts, {count} at once", [count / seconds], unit="1/s", note=note)


BENCHMARK = Benchmark(
    name="start", about="Start a stopped machine, until its first byte.", run=run, each_kernel=True
)
