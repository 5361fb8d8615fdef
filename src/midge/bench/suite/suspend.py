"""Suspending a running machine: until the server says it is suspended, and until its memory is safe on disk."""

from __future__ import annotations

import time

from midge.bench import suspended
from midge.bench.context import Benchmark, Context
from midge.bench.quiet import until_quiet

SAMPLES = 30


async def run(ctx: Context) -> None:
    times, durable, phases = [], [], []
    own = ctx.target.own
    async with ctx.machines(1) as (machine,):
        await suspended.start(ctx, machine)
        await suspended.check(ctx, machine)
        for _ in ctx.rounds(SAMPLES):
            await suspended.start(ctx, machine)
            await until_quiet(ctx)
            begun_ns = time.time_ns()
            asked, done = await suspended.suspend(ctx, machine)
            times.append((done.done_at - asked.sent_at) * 1000)
            if (told := await ctx.api.phases(machine)) is not None:
                phases.append(told)
            if own is not None and ctx.target.driver in suspended.WITH_FILES:
                durable.append((await suspended.durable_at_ns(own, machine) - begun_ns) / 1e6)
    ctx.record(
        "suspended", times, note="request sent until the server says so; from then on it can be resumed"
    )
    ctx.record("durable", durable, note="request sent until memory and disk are synced, as the record says")
    ctx.record_phases(phases)


BENCHMARK = Benchmark(name="suspend", about="Suspend a running machine.", run=run)
