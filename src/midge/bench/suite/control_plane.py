"""What the platform itself costs, on machines that are nothing: many clients, many machines, a restart.

The journal is as durable as in earnest (SQLite, synchronous=FULL, on a real disk); only the VMM is missing.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from midge.bench.api import over
from midge.bench.context import Benchmark, Context
from midge.bench.errors import CannotMeasure
from midge.bench.http import Connection, open_connection
from midge.bench.memory import rss_mb

ROUNDS = 3
STARTS_PER_CLIENT = 20
PACES = (300, 800)  # starts a second that are sent whatever the server does with them
PACED_S = 3  # how long
LEAD_S = 0.5  # until the first is due: all clients are connected by then
PAGE = 100
PAGES = 30


async def run(ctx: Context) -> None:
    await _many_clients(ctx)
    await _many_machines(ctx)


async def _many_clients(ctx: Context) -> None:
    """Every client starts its own machines, one after another; stopping them again is not counted."""
    clients = ctx.options.concurrency
    each = min(STARTS_PER_CLIENT, ctx.samples(STARTS_PER_CLIENT))
    machines = await ctx.api.create_many(clients * each)
    shares = [machines[index::clients] for index in range(clients)]
    latencies: list[float] = []
    rates: list[float] = []

    async def start(connection: Connection, share: list[str]) -> list[float]:
        requests = [ctx.api.start(machine) for machine in share]
        return [(await connection.ask(request)).ms for request in requests]

    async def stop(connection: Connection, share: list[str]) -> None:
        for machine in share:
            await connection.ask(ctx.api.stop(machine))
            await connection.ask(ctx.api.wait(machine, "stopped"))

    async def stop_all() -> None:
        await over(ctx.api.server, shares, clients, stop)

    for _ in range(ROUNDS):
        begun = perf_counter()
        times = await over(ctx.api.server, shares, clients, start)
        rates.append(len(machines) / (perf_counter() - begun))
        latencies += [ms for share in times for ms in share]
        await stop_all()
    note = "each client sends the next request as soon as it has the answer, so this is clients / rate"
    ctx.record(f"start, {clients} clients", latencies, note=note)
    ctx.record(f"starts, {clients} clients", rates, unit="1/s")
    for pace in PACES:
        if pace > max(rates):
            ctx.skip(f"start at {pace}/s: the server takes {max(rates):.0f}/s")
            continue
        note = "from when a request is sent, or was due where it had to wait for a free connection"
        paced = await _paced(ctx, machines[: pace * PACED_S], clients, pace)
        ctx.record(f"start at {pace}/s, {clients} clients", paced, note=note)
        await stop_all()
    await ctx.api.destroy_many(machines)


async def _paced(ctx: Context, machines: list[str], clients: int, pace: int) -> list[float]:
    """Starts at fixed times, so that a slow answer does not put the next request off.

    Where the connection was free in time, the clock starts when the request is sent: our own timers wake up to a
    millisecond late, and that is nobody's wait.
    """
    begun = perf_counter() + LEAD_S

    async def start(connection: Connection, item: tuple[int, str]) -> float:
        index, machine = item
        due = begun + index / pace
        early_s = due - perf_counter()
        if early_s > 0:
            await asyncio.sleep(early_s)
        answer = await connection.ask(ctx.api.start(machine))
        return (answer.done_at - (answer.sent_at if early_s > 0 else due)) * 1000

    return await over(ctx.api.server, list(enumerate(machines)), clients, start)


async def _many_machines(ctx: Context) -> None:
    own, count = ctx.target.own, ctx.options.machines
    if own is None:
        raise CannotMeasure(f"{count} machines and a restart: only on a server started for it")
    before = rss_mb(own.pid)
    begun = perf_counter()
    await ctx.api.create_many(count)
    ctx.note(f"{count} machines created in {perf_counter() - begun:.0f} s")
    ctx.record(f"memory before, {count} stopped", [before], unit="MiB")
    grown = rss_mb(own.pid)
    await own.stop()
    server = await own.start()
    ctx.record(f"restart to ready, {count} stopped", [(own.ready_at - own.spawned_at) * 1000])
    ctx.target.server = ctx.api.server = server
    ctx.api.connection.close()
    ctx.api.connection = await open_connection(server)
    page = ctx.api.first_page(PAGE)
    ctx.record(f"first page of {PAGE}, {count} stopped", [(await ctx.api.ask(page)).ms for _ in range(PAGES)])
    note = "after all were created, and after a restart"
    ctx.record(f"memory, {count} stopped", [grown, rss_mb(own.pid)], unit="MiB", note=note)


BENCHMARK = Benchmark(
    name="control-plane",
    about="Starts from many clients, and a host with many stopped machines.",
    run=run,
    drivers=("mock",),
    fresh_server=True,
)
