"""A command in a running machine: request sent, command run to its end, answer read."""

from __future__ import annotations

from midge.bench.context import Benchmark, Context

SAMPLES = 200
WARM_UP = 5
COMMAND = ("/bin/true",)


async def run(ctx: Context) -> None:
    async with ctx.machines(1) as (machine,):
        await ctx.api.ask(ctx.api.start(machine))
        await ctx.api.ask(ctx.api.wait(machine, "started"))
        request = ctx.api.exec(machine, COMMAND)
        for _ in range(WARM_UP):
            await ctx.api.ask(request)
        ctx.record("round trip", [(await ctx.api.ask(request)).ms for _ in range(ctx.samples(SAMPLES))])


BENCHMARK = Benchmark(name="exec", about="Round trip of a command in a running machine.", run=run)
