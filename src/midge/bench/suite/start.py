"""Starting a stopped machine: request sent until its process has printed its first byte.

```
 a round:  host quiet ─► one machine alone ─► host quiet ─► n machines in a row ─► floor, peers
                          takes a slot                       n: one more than the server keeps slots of all kinds,
                                                             so that every way is gone
```

In turns with the floor, so that whatever else the host does meets both alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter

from midge.bench import crowd
from midge.bench.api import over
from midge.bench.context import Benchmark, Context
from midge.bench.errors import BenchError, CannotMeasure
from midge.bench.floor.base import Floor, open_floor
from midge.bench.floor.peers import open_peers
from midge.bench.http import Answer, Connection
from midge.bench.observe import Observer, Seen, observe
from midge.bench.pool import pool_of
from midge.bench.quiet import until_quiet
from midge.bench.ways import NAMES, WITH_WAYS, Ways, named, way
from midge.worker.local import ANSWER_AFTER_S

SAMPLES = 30
SAMPLES_MOCK = 200
WARM_UP = 2
ROUNDS_S = 110.0  # the figures that matter most
FIRST_BYTE = "first byte"
FLOOR = f"floor: {FIRST_BYTE}"
FLOOR_QUIET_S = (
    1.0  # the pool fills up meanwhile, which may take longer: the floor's own turn does not wait for it
)
BURST_LOOK_S = (
    60  # from the answer until a machine of the crowd must have started; the most the server waits for
)
PRINTED_LOOK_S = 0.1  # how often the server is asked whether it has printed; the time itself is in the phases
PRINTED_LOOKS_MAX = 600


async def run(ctx: Context) -> None:
    ways = await (_mock(ctx) if ctx.target.driver == "mock" else _real(ctx))
    await _burst(ctx, ways)


async def _mock(ctx: Context) -> Ways:
    """A mock machine prints nothing: the answer says that it has started."""
    ways = Ways("mock")
    async with ctx.machines(1) as (machine,):
        start = ctx.api.start(machine)
        for index in ctx.rounds(SAMPLES_MOCK, warm_up=WARM_UP):
            answer = await ctx.api.ask(start)
            if index >= 0:
                ways.add(await ctx.api.phases(machine), started=answer.ms)
            await ctx.api.stopped(machine)
    ways.record(ctx)
    return ways


async def _real(ctx: Context) -> Ways:
    """Rounds; the crowd is compared with the times of these."""
    driver = ctx.target.driver
    rest = _Rest(Ways(driver))
    count = (await pool_of(ctx.api)).starts(driver)
    async with ctx.machines(count) as machines, AsyncExitStack() as stack:
        observers = [await stack.enter_async_context(observe(ctx.target, ctx.api, one)) for one in machines]
        pairs = list(zip(machines, observers, strict=True))
        await _in_a_row(ctx, pairs)
        # Built from what a running machine looks like, so before it is stopped.
        others = await stack.enter_async_context(_others(ctx, machines[-1]))
        await _stop(ctx, machines)
        for index in ctx.rounds(SAMPLES, warm_up=WARM_UP, time_s=ROUNDS_S):
            counts = index >= 0
            for row in (pairs[:1], pairs[1:] and pairs):
                await until_quiet(ctx)
                samples = await _in_a_row(ctx, row)
                for (machine, _), sample in zip(row, samples, strict=True):
                    phases = await ctx.api.phases(machine)
                    # In a row, those that took a slot are there for the others' sake, and slowed down by them.
                    if counts and (len(row) == 1 or way(phases) != NAMES["slot"]):
                        rest.add(sample, phases)
                await _stop(ctx, [machine for machine, _ in row])
            for other in list(others):
                await until_quiet(ctx, max_s=FLOOR_QUIET_S)
                try:
                    rest.add_other(await other.once(), counts=counts)
                except CannotMeasure as error:
                    ctx.skip(f"beside it: {error}")
                    others.remove(other)
    rest.record(ctx, observers[0])
    return rest.ways


async def _in_a_row(ctx: Context, pairs: list[tuple[str, Observer]]) -> list[_Sample]:
    """Each is started with the answer to the one before, so that no slot is filled in between."""
    begun: list[tuple[float, Answer]] = []
    seeing: list[asyncio.Task[Seen]] = []
    try:
        for machine, observer in pairs:
            observer.arm()
            at = perf_counter()
            answering = ctx.api.connection.send(ctx.api.start(machine))
            # A process may be quicker than the answer.
            seeing.append(asyncio.create_task(observer.first_byte()))
            begun.append((at, await answering))
            _check(begun[-1][1])
        found = [await seen for seen in seeing]
    finally:
        for seen in seeing:
            seen.cancel()
        if seeing:
            await asyncio.wait(seeing)
    return [
        _Sample((seen.at - at) * 1000, answer.ms, seen.lag_ms)
        for (at, answer), seen in zip(begun, found, strict=True)
    ]


def _check(answer: Answer) -> None:
    if answer.status != 200:
        text = answer.body[:300].decode(errors="replace")
        raise CannotMeasure(f"start was answered {answer.status}: {text}")


async def _stop(ctx: Context, machines: list[str]) -> None:
    for machine in machines:
        await ctx.api.stopped(machine)


@asynccontextmanager
async def _others(ctx: Context, machine: str) -> AsyncIterator[list[Floor]]:
    """Floor and peers that can be had; the reasons for those that cannot are in the report."""
    found: list[Floor] = []
    async with AsyncExitStack() as stack:
        if ctx.options.floors and ctx.target.own is not None:
            try:
                found.append(await stack.enter_async_context(open_floor(ctx.target, machine)))
            except CannotMeasure as error:
                ctx.skip(f"floor: {error}")
        if ctx.options.peers and ctx.target.driver == "container":
            found += await stack.enter_async_context(open_peers(ctx))
        yield found


@dataclass(frozen=True, slots=True)
class _Sample:
    """Milliseconds to the first byte and to the answer, and the observer's part of the first."""

    first_byte_ms: float
    answered_ms: float
    lag_ms: float | None


@dataclass(slots=True)
class _Rest:
    """The starts by way, and what is not a start of ours."""

    ways: Ways
    lag: list[float] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)

    def add(self, sample: _Sample, phases: list[tuple[str, float]] | None) -> None:
        self.ways.add(phases, first_byte=sample.first_byte_ms, started=sample.answered_ms)
        if sample.lag_ms is not None:
            self.lag.append(sample.lag_ms)

    def add_other(self, times: dict[str, float], *, counts: bool) -> None:
        if counts:
            for name, value in times.items():
                self.others.setdefault(name, []).append(value)

    def record(self, ctx: Context, observer: Observer) -> None:
        seen = f"seen through the {observer.kind}"
        self.ways.record(
            ctx,
            floors={FIRST_BYTE: FLOOR} if FLOOR in self.others else {},
            notes={FIRST_BYTE: seen, "started": "the answer to the request"},
        )
        # Of the ways, that which a start takes where nobody is in a hurry.
        usual = NAMES["slot"] if NAMES["slot"] in self.ways.found else ""
        for name, samples in self.others.items():
            compared = "" if name.startswith("floor") else named(FIRST_BYTE, usual)
            ctx.record(name, samples, floor=compared)
        note = "from the shim's reading of the byte until it was seen here; part of `first byte`"
        ctx.record("observer", self.lag, note=note)


async def _burst(ctx: Context, alone: Ways) -> None:
    """Many machines at once, one client each, until each is `started` and, where there is a process, has printed."""
    count, note = ctx.burst()

    async def one(connection: Connection, machine: str) -> crowd.One:
        return await _one_of_many(ctx, connection, machine)

    async with ctx.machines(count) as machines:
        await until_quiet(ctx)
        begun = perf_counter()
        found = await over(ctx.api.server, machines, count, one)
        seconds = perf_counter() - begun
        printed: list[crowd.One] = []
        if ctx.target.driver in WITH_WAYS:
            pairs = [await _printed(ctx, *pair) for pair in zip(machines, found, strict=True)]
            found, printed = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    crowd.record(ctx, "started", found, alone.all("started"), note=note)
    if printed:
        note = "; ".join(filter(None, (note, "by the phases: from the request's arrival at the server")))
        crowd.record(ctx, FIRST_BYTE, printed, alone.all(FIRST_BYTE), note=note)
    ctx.record(f"starts, {count} at once", [count / seconds], unit="1/s", note=note)


async def _printed(ctx: Context, machine: str, started: crowd.One) -> tuple[crowd.One, crowd.One]:
    """One of the crowd with its way, and the same with the time to its first byte."""
    if started.error:
        return started, started
    phases: list[tuple[str, float]] = []
    for _ in range(PRINTED_LOOKS_MAX):
        phases = await ctx.api.phases(machine) or []
        if FIRST_BYTE in dict(phases):
            break
        await asyncio.sleep(PRINTED_LOOK_S)
    started = replace(started, way=way(phases))
    ms = dict(phases).get(FIRST_BYTE)
    if ms is None:
        seconds = PRINTED_LOOKS_MAX * PRINTED_LOOK_S
        return started, replace(started, error=f"it printed nothing within {seconds:g} s")
    return started, replace(started, ms=ms)


async def _one_of_many(ctx: Context, connection: Connection, machine: str) -> crowd.One:
    """A start that takes long is answered before it has ended, so the answer alone says nothing."""
    wait = ctx.api.wait(machine, "started", timeout_s=BURST_LOOK_S)
    try:
        started = answer = await connection.ask(ctx.api.start(machine))
        waited = await connection.ask(wait)
        if answer.ms >= ANSWER_AFTER_S * 1000:
            started = waited
    except BenchError as error:
        return crowd.One(0.0, error=str(error))
    return crowd.One((started.done_at - answer.sent_at) * 1000)


BENCHMARK = Benchmark(
    name="start", about="Start a stopped machine, until its first byte.", run=run, each_kernel=True
)
