"""Resuming a suspended machine: request sent until a command inside has been answered."""

from __future__ import annotations

from midge.bench import suspended
from midge.bench.context import Benchmark, Context

SAMPLES = 30
COMMAND = ("/bin/true",)


async def run(ctx: Context) -> None:
    answered, executed = [], []
    async with ctx.machines(1) as (machine,):
        await ctx.api.ask(ctx.api.start(machine))
        await ctx.api.ask(ctx.api.wait(machine, "started"))
        await suspended.check(ctx, machine)
        start, command = ctx.api.start(machine), ctx.api.exec(machine, COMMAND)
        for _ in range(ctx.samples(SAMPLES)):
            await suspended.pause()
            begun = await ctx.api.ask(start)
            ended = await ctx.api.ask(command)
            answered.append(begun.ms)
            executed.append((ended.done_at - begun.sent_at) * 1000)
            await suspended.suspend(ctx, machine)
    ctx.record("resumed", answered)
    ctx.record("exec answered", executed)


BENCHMARK = Benchmark(name="resume", about="Resume a suspended machine, and run a command in it.", run=run)
