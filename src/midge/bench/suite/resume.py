"""Resuming a suspended machine: request sent until a command inside has been answered.

```
 a round:  suspend n machines, and the large one ─► all durable, host quiet ─► resume each, run a command
           n: one more than the server keeps parked, so that the first has to be restored
```

The large machine has 2 GiB, of which 1 GiB is touched: a resume must not depend on it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from midge.bench import suspended
from midge.bench.context import Benchmark, Context, available_mb
from midge.bench.errors import BenchError, CannotMeasure
from midge.bench.pool import pool_of
from midge.bench.quiet import until_quiet
from midge.bench.ways import WITH_WAYS, Ways, named

SAMPLES = 12
SAMPLES_MOCK = 30
COMMAND = ("/bin/true",)
RESUMED, ANSWERED = "resumed", "exec answered"
LARGE_MB = 2048
LARGE = ", 2 GiB"
LARGE_NEEDS_MB = 6 * 1024  # available on the host: its memory, and the page cache of the copy on disk
TOUCH_TIMEOUT_S = 60  # of one step; the most an exec may take
TOUCH_STEPS = 16
# Touches a gigabyte of the guest's memory, with what no file system takes for zeros, a sixteenth in each step.
PREPARE = (
    "mkdir -p /touched && mount -t tmpfs -o size=1200m touched /touched && "
    "head -c 8388608 /dev/urandom > /touched/0"
)
STEP = "cd /touched && cat 0 0 0 0 0 0 0 0 > {step}"


async def run(ctx: Context) -> None:
    driver = ctx.target.driver
    count = (await pool_of(ctx.api)).suspends() if driver == "qemu" else 1
    small, large = Ways(driver, resumed=True), Ways(driver, resumed=True)
    async with ctx.machines(count) as machines, AsyncExitStack() as stack:
        for machine in machines:
            await suspended.start(ctx, machine)
        await suspended.check(ctx, machines[0])
        await suspended.start(ctx, machines[0])
        big = await _large(ctx, stack)
        for _ in ctx.rounds(SAMPLES if driver in WITH_WAYS else SAMPLES_MOCK):
            await _suspend_all(ctx, [*machines, *big])
            for machine in machines:
                await _resume(ctx, machine, small)
            for machine in big:
                await _resume(ctx, machine, large)
    small.record(ctx)
    for way, found in large.found.items():
        for name in (RESUMED, ANSWERED):
            same = named(name, way) if way in small.found else ""
            ctx.record(named(f"{name}{LARGE}", way), found.samples.get(name, []), floor=same)


async def _suspend_all(ctx: Context, machines: list[str]) -> None:
    own = ctx.target.own
    for machine in machines:
        await suspended.suspend(ctx, machine)
    if own is not None and ctx.target.driver in suspended.WITH_FILES:
        for machine in machines:
            await suspended.durable_at_ns(own, machine)
    await until_quiet(ctx)


async def _resume(ctx: Context, machine: str, ways: Ways) -> None:
    begun = await ctx.api.ask(ctx.api.start(machine))
    ended = await ctx.api.ask(ctx.api.exec(machine, COMMAND))
    phases = await ctx.api.phases(machine)
    ways.add(phases, resumed=begun.ms, exec_answered=(ended.done_at - begun.sent_at) * 1000)


def _has_room_for_large(ctx: Context) -> bool:
    if ctx.target.driver not in suspended.WITH_FILES or ctx.target.own is None:
        return False
    if available_mb() < LARGE_NEEDS_MB:
        ctx.skip(f"a machine of 2 GiB: needs {LARGE_NEEDS_MB} MiB of available memory")
        return False
    return True


async def _large(ctx: Context, stack: AsyncExitStack) -> list[str]:
    """The large machine, with its memory touched; none where there is no room, or that could not be done."""
    if not _has_room_for_large(ctx):
        return []
    (machine,) = await stack.enter_async_context(ctx.machines(1, memory_mb=LARGE_MB))
    try:
        await suspended.start(ctx, machine)
        for script in (PREPARE, *(STEP.format(step=step + 1) for step in range(TOUCH_STEPS))):
            command = ("/bin/sh", "-c", script)
            answer = await ctx.api.ask(ctx.api.exec(machine, command, timeout_s=TOUCH_TIMEOUT_S))
            if answer.json().get("exit_code") != 0:
                raise CannotMeasure(f"its memory was not touched: {answer.body[:300]!r}")
    except BenchError as error:
        ctx.skip(f"a machine of 2 GiB: {error}")
        return []
    return [machine]


BENCHMARK = Benchmark(name="resume", about="Resume a suspended machine, and run a command in it.", run=run)
