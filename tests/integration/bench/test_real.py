"""A small run on real machines: every way of a start and a resume is gone, and compared with its floor."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest

from midge.bench import runner, suite, target
from midge.bench.context import Context, Options
from midge.bench.model import Report
from midge.bench.pool import pool_of
from midge.bench.suite import start

FULL_TIMEOUT_S = 120.0  # some guests are warmed one after the other, and others have the processors
FULL_LOOK_S = 0.1

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox-static"),
]


@pytest.fixture(autouse=True)
def full_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that runs other tests never becomes quiet; what it takes to go every way is that all slots wait."""

    async def until_full(ctx: Context, *, max_s: float = 0.0) -> bool:
        wanted = (await pool_of(ctx.api)).starts(ctx.target.driver) - 1
        async with asyncio.timeout(FULL_TIMEOUT_S):
            while await waiting(ctx) < wanted:  # noqa: ASYNC110 (a server tells nobody)
                await asyncio.sleep(FULL_LOOK_S)
        return True

    monkeypatch.setattr(start, "until_quiet", until_full)


async def waiting(ctx: Context) -> float:
    """Slots that wait for a start."""
    answer = await ctx.api.ask(ctx.api.server.request("GET", "/metrics"))
    found = re.search(rb'^midge_driver_kept\{what="warm_slots"\} (.+)$', answer.body, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def run(driver: str, names: set[str], scratch: Path) -> tuple[Report, set[str]]:
    """The report, and what was measured as ``bench: name``."""
    report = Report()
    benchmarks = [one for one in suite.load() if one.name in names]
    await runner.run(benchmarks, [driver], Options(samples=1, concurrency=2, scratch=scratch), report=report)
    assert list(scratch.iterdir()) == []
    return report, {f"{one.bench}: {one.name}" for one in report.measurements if one.driver == driver}


@pytest.mark.container
@pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc")
async def test_containers(tmp_path: Path) -> None:
    report, found = await run("container", {"start"}, tmp_path)
    assert {"start: first byte", "start: first byte, warm slot", "start: floor: first byte"} <= found, (
        report.skipped
    )
    assert "start: first byte, 2 at once: failed" in found


@pytest.mark.vm
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86")
async def test_virtual_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "flavours", lambda: [""])  # one kernel, whichever is there
    report, found = await run("qemu", {"start", "suspend", "resume"}, tmp_path)
    wanted = {
        *(f"start: first byte, {way}" for way in ("warm slot", "waiting VMM", "new VMM")),
        "start: floor: first byte",
        "start: first byte, 2 at once: failed",
        *("suspend: suspended", "suspend: durable"),
        *("resume: exec answered, parked", "resume: exec answered, restore"),
    }
    assert wanted <= found, report.skipped
    ratio = next(one for one in report.measurements if one.name == "first byte, new VMM")
    assert ratio.floor == "floor: first byte"
