"""What the benchmarks of suspend and resume share."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import msgspec

from midge.bench.context import Context
from midge.bench.errors import CannotMeasure
from midge.bench.http import Answer
from midge.bench.target import OwnServer
from midge.drivers.seal import SEAL_NAME

FIRST_WAIT_S = 60  # whether this driver can at all; a driver that cannot says so at once
DURABLE_TIMEOUT_S = 120.0  # a gigabyte to a slow disk
DURABLE_LOOK_S = 0.02  # how often the record is looked at; the time itself is in it
# Drivers whose suspended machines lie in files, which become durable after the machine is `suspended`.
WITH_FILES = frozenset({"qemu"})


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


async def start(ctx: Context, machine: str) -> Answer:
    """The answer to start, once the machine is started."""
    answer = await ctx.api.ask(ctx.api.start(machine))
    await ctx.api.ask(ctx.api.wait(machine, "started"))
    return answer


async def durable_at_ns(own: OwnServer, machine: str) -> int:
    """When a suspended machine's memory was safe from a power cut, as its record says: nanoseconds since 1970.

    Raises:
        CannotMeasure: the record does not say so within DURABLE_TIMEOUT_S.
    """
    seal = own.data_dir / "machines" / machine / "suspend" / SEAL_NAME
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DURABLE_TIMEOUT_S):
            while True:
                if at_ns := recorded_ns(seal):
                    return at_ns
                await asyncio.sleep(DURABLE_LOOK_S)
    raise CannotMeasure(f"suspended memory was not on disk within {DURABLE_TIMEOUT_S:g} s")


def recorded_ns(seal: Path) -> int:
    """`durable_at_ns` of a snapshot's record; 0 before it is there. The seal itself is the driver's to verify."""
    try:
        record: Any = msgspec.json.decode(seal.read_bytes().partition(b"\n")[0])
        return int(record["metadata"].get("durable_at_ns", 0))
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return 0
