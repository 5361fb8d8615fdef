"""Suspending a running machine: request sent until the server says it is suspended."""

from __future__ import annotations

from midge.bench import suspended
from midge.bench.context import Benchmark, Context

SAMPLES = 30


async def run(ctx: Context) -> None:
    times = []
    async with ctx.machines(1) as (machine,):
        await ctx.api.ask(ctx.api.start(machine))
        await ctx.api.ask(ctx.api.wait(machine, "started"))
        await suspended.check(ctx, machine)
        for _ in range(ctx.samples(SAMPLES)):
            await ctx.api.ask(ctx.api.start(machine))
            await ctx.api.ask(ctx.api.wait(machine, "started"))
            await suspended.pause()
            asked, done = await suspended.suspend(ctx, machine)
            times.append((done.done_at - asked.sent_at) * 1000)
    ctx.record("suspended", times)


BENCHMARK = Benchmark(name="suspend", about="Suspend a running machine.", run=run)
