"""Memory that one more machine costs the host, idle, suspended, stopped: its processes' own pages, its memory file."""

from __future__ import annotations

import asyncio

from midge.bench import suspended
from midge.bench.context import Benchmark, Context
from midge.bench.errors import BenchError, CannotMeasure
from midge.bench.memory import machine_memory, resting_mb
from midge.bench.pool import pool_of
from midge.bench.target import OwnServer

MACHINES = 4
IDLE_S = 5.0  # after the start, until what the guest does at first is done
ENDED_S = 15.0  # after a suspend or a stop, until everything of the machine is gone
ENDED_LOOK_S = 0.1


async def run(ctx: Context) -> None:
    own = ctx.target.own
    if own is None:
        raise CannotMeasure("memory can be read on the server's own host only, of a server started for it")
    parked = (await pool_of(ctx.api)).suspends() - 1
    async with ctx.machines(MACHINES + parked) as machines:
        for machine in machines:
            await suspended.start(ctx, machine)
        await asyncio.sleep(IDLE_S)
        found = [await asyncio.to_thread(machine_memory, own.run_dir / "m" / machine) for machine in machines]
        note = (
            "of all processes of a machine: pages nobody else maps, and what its memory file takes on tmpfs"
        )
        ctx.record("private memory", [one.total_mb for one in found], unit="MiB", note=note)
        ctx.record("private memory, guest", [one.guest_mb for one in found], unit="MiB")
        ctx.record("private memory, shim", [one.shim_mb for one in found], unit="MiB")
        if ctx.target.driver in suspended.WITH_FILES:
            await _suspended(ctx, own, machines)
        for machine in machines:
            await ctx.api.stopped(machine)
        note = "processes, and files on tmpfs, of a machine that is stopped"
        ctx.record("stopped", [await _rested(own, machine) for machine in machines], unit="MiB", note=note)


async def _suspended(ctx: Context, own: OwnServer, machines: list[str]) -> None:
    """The first ones: their VMs have made room for those that were suspended after them."""
    try:
        for machine in machines:
            await suspended.suspend(ctx, machine)
        for machine in machines:
            await suspended.durable_at_ns(own, machine)
    except BenchError as error:
        ctx.skip(f"suspended: {error}")
        return
    note = "processes, and files on tmpfs, of a suspended machine whose VM is not parked any more"
    ctx.record("suspended", [await _rested(own, one) for one in machines[:MACHINES]], unit="MiB", note=note)


async def _rested(own: OwnServer, machine: str) -> float:
    """What is still there after ENDED_S at the latest; what ends in the background may do so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ENDED_S
    while True:
        left_mb = await asyncio.to_thread(resting_mb, own.run_dir / "m" / machine, own.memory_dir, machine)
        if left_mb == 0 or loop.time() > deadline:
            return left_mb
        await asyncio.sleep(ENDED_LOOK_S)


BENCHMARK = Benchmark(
    name="density", about="Memory of an idle machine of 256 MiB.", run=run, drivers=("qemu", "container")
)
