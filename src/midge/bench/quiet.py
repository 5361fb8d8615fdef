"""Waiting until a host has nothing else to do: what the sample before set off in the background is not the next one's.

By the kernel's own count of time in which a CPU ran anything (proc_stat(5)), so nothing has to be known of what runs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from midge.bench.context import Context

LOOK_S = 0.15
LOOKS = 2  # in a row; between two warm slots there is a moment of rest
BUSY_SHARE_MAX = 0.12  # of all CPUs
WAIT_MAX_S = 6.0  # on a host that others use, too
AFAR_S = 2.5  # of a server whose host cannot be looked at
MOCK_S = 0.1  # a mock machine leaves nothing to do
# Of a benchmark: after so many times in vain, others use the host for good, and there is no use in waiting long.
VAIN_MAX = 3
VAIN_WAIT_S = 0.5
NOISY = "others used the host between the samples: the figures are too high"

_STAT = Path("/proc/stat")


async def until_quiet(ctx: Context, *, max_s: float = WAIT_MAX_S) -> bool:
    """Returns whether it became quiet in time."""
    if ctx.target.own is None or ctx.target.driver == "mock":
        await asyncio.sleep(min(MOCK_S if ctx.target.driver == "mock" else AFAR_S, max_s))
        return True
    quiet = await _until_idle(max_s if ctx.vain < VAIN_MAX else min(max_s, VAIN_WAIT_S))
    ctx.vain = 0 if quiet else ctx.vain + 1
    if ctx.vain == VAIN_MAX and NOISY not in ctx.report.warnings:
        ctx.report.warnings.append(NOISY)
    return quiet


async def _until_idle(max_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline, quiet = loop.time() + max_s, 0
    before = cpu_times(_STAT.read_text())
    while quiet < LOOKS:
        if loop.time() > deadline:
            return False
        await asyncio.sleep(LOOK_S)
        now = cpu_times(_STAT.read_text())
        quiet = quiet + 1 if busy_share(before, now) <= BUSY_SHARE_MAX else 0
        before = now
    return True


def cpu_times(stat: str) -> tuple[int, int]:
    """Ticks all CPUs were busy, and all ticks."""
    fields = [int(word) for word in stat.partition("\n")[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)


def busy_share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Of the time between two looks; nothing has passed: idle."""
    ticks = after[1] - before[1]
    return (after[0] - before[0]) / ticks if ticks > 0 else 0.0
