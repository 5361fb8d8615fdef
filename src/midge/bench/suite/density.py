"""Memory that one more idle machine costs the host: its processes' own pages, and its memory file."""

from __future__ import annotations

import asyncio

from midge.bench.context import Benchmark, Context
from midge.bench.errors import CannotMeasure
from midge.bench.memory import machine_memory

MACHINES = 4
IDLE_S = 5.0  # after the start, until what the guest does at first is done


async def run(ctx: Context) -> None:
    own = ctx.target.own
    if own is None:
        raise CannotMeasure("memory can be read on the server's own host only, of a server started for it")
    async with ctx.machines(MACHINES) as machines:
        for machine in machines:
            await ctx.api.ask(ctx.api.start(machine))
            await ctx.api.ask(ctx.api.wait(machine, "started"))
        await asyncio.sleep(IDLE_S)
        found = [await asyncio.to_thread(machine_memory, own.run_dir / "m" / machine) for machine in machines]
    note = "of all processes of a machine: pages nobody else maps, and what its memory file takes on tmpfs"
    ctx.record("private memory", [one.total_mb for one in found], unit="MiB", note=note)
    ctx.record("private memory, guest", [one.guest_mb for one in found], unit="MiB")
    ctx.record("private memory, shim", [one.shim_mb for one in found], unit="MiB")


BENCHMARK = Benchmark(
    name="density", about="Memory of an idle machine of 256 MiB.", run=run, drivers=("qemu", "container")
)
