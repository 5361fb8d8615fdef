"""What the benchmarks of suspend and resume share."""

from __future__ import annotations

import asyncio

from midge.bench.context import Context
from midge.bench.errors import CannotMeasure
from midge.bench.http import Answer

FIRST_WAIT_S = 10  # whether this driver can at all; a driver that cannot says so at once
PAUSE_S = 0.1  # between samples: what the one before left to do in the background is not this one's


async def check(ctx: Context, machine: str) -> None:
    """Suspends a running machine once. Raises CannotMeasure with the driver's reason."""
    connection, api = ctx.api.connection, ctx.api
    answer = await connection.ask(api.suspend(machine), expect=(200, 409, 412, 422, 501))
    if answer.status != 200:
        raise CannotMeasure(str(answer.json().get("error", "suspend was refused")))
    done = await connection.ask(api.wait(machine, "suspended", timeout_s=FIRST_WAIT_S), expect=(200, 408))
    if done.status != 200:
        reason = await api.failure(machine, "suspend")
        raise CannotMeasure(reason or f"machine was not suspended within {FIRST_WAIT_S} s")


async def suspend(ctx: Context, machine: str) -> tuple[Answer, Answer]:
    """The answer to suspend, and that of the wait for it."""
    answer = await ctx.api.ask(ctx.api.suspend(machine))
    return answer, await ctx.api.ask(ctx.api.wait(machine, "suspended"))


async def pause() -> None:
    await asyncio.sleep(PAUSE_S)
