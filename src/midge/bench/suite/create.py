"""Creating a machine whose image is here already: until the answer, and until it could be started."""

from __future__ import annotations

from time import perf_counter

from midge.bench.api import over
from midge.bench.context import Benchmark, Context
from midge.bench.http import Connection

SAMPLES = 50
WARM_UP = 3  # the first one makes file systems and templates


async def run(ctx: Context) -> None:
    created: list[str] = []
    api, request = ctx.api, ctx.api.create()

    async def one(connection: Connection, _: int) -> tuple[float, float]:
        answer = await connection.ask(request)
        machine = answer.json()["id"]
        created.append(machine)
        settled = await connection.ask(api.wait(machine, "settled"))
        return answer.ms, (settled.done_at - answer.sent_at) * 1000

    try:
        await over(api.server, range(WARM_UP), 1, one)
        alone = await over(api.server, range(ctx.samples(SAMPLES)), 1, one)
        ctx.record("answered", [answered for answered, _ in alone])
        ctx.record("created", [settled for _, settled in alone])
        count = ctx.options.concurrency
        begun = perf_counter()
        crowd = await over(api.server, range(count), count, one)
        seconds = perf_counter() - begun
        ctx.record(f"answered, {count} at once", [answered for answered, _ in crowd])
        ctx.record(f"created, {count} at once", [settled for _, settled in crowd])
        ctx.record(f"creates, {count} at once", [count / seconds], unit="1/s")
    finally:
        await api.destroy_many(created)


BENCHMARK = Benchmark(name="create", about="Create a machine of an image that is here already.", run=run)
