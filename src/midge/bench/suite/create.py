"""Creating a machine whose image is here already: until the answer, and until it could be started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter

from midge.bench import crowd
from midge.bench.api import over
from midge.bench.context import Benchmark, Context
from midge.bench.errors import BenchError
from midge.bench.http import Connection
from midge.bench.quiet import until_quiet

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

    def one_of_many(answers: list[float]) -> Callable[[Connection, int], Awaitable[crowd.One]]:
        async def create(connection: Connection, number: int) -> crowd.One:
            try:
                answered, settled = await one(connection, number)
            except BenchError as error:
                return crowd.One(0.0, error=str(error))
            answers.append(answered)
            return crowd.One(settled)

        return create

    try:
        await over(api.server, range(WARM_UP), 1, one)
        alone = await over(api.server, range(ctx.samples(SAMPLES)), 1, one)
        ctx.record("answered", [answered for answered, _ in alone])
        created_alone = [settled for _, settled in alone]
        ctx.record("created", created_alone)
        count = ctx.options.concurrency
        answers: list[float] = []
        await until_quiet(ctx)
        begun = perf_counter()
        found = await over(api.server, range(count), count, one_of_many(answers))
        seconds = perf_counter() - begun
        ctx.record(f"answered, {count} at once", answers)
        crowd.record(ctx, "created", found, {"": created_alone})
        ctx.record(f"creates, {count} at once", [count / seconds], unit="1/s")
    finally:
        await api.destroy_many(created)


BENCHMARK = Benchmark(name="create", about="Create a machine of an image that is here already.", run=run)
