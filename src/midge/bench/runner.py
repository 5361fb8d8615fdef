"""Runs benchmarks: for each driver and kernel a server, on it one benchmark after another."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import midge
from midge.bench import hostinfo, image, target
from midge.bench.api import Api, open_api
from midge.bench.context import Benchmark, Context, Options
from midge.bench.errors import BenchError, CannotMeasure
from midge.bench.floor.scratch import scratch
from midge.bench.model import Report, Skipped
from midge.bench.target import APP, Target
from midge.garbage import no_full_collections

T = TypeVar("T")

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Remote:
    """A server that runs already. `driver`: what it said it uses."""

    url: str
    token: str
    driver: str


@dataclass(frozen=True, slots=True)
class Group:
    """Benchmarks that share a server."""

    driver: str
    flavour: str
    benchmarks: tuple[Benchmark, ...]


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Runs to the end, or until SIGINT or SIGTERM; what was begun is removed either way. A second one ends at once.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """

    async def watched() -> T:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        def interrupt(signum: int) -> None:
            loop.remove_signal_handler(signum)
            task.cancel()

        for signum in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                loop.add_signal_handler(signum, interrupt, signum)
        return await work

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


async def run(
    benchmarks: Sequence[Benchmark],
    drivers: Sequence[str],
    options: Options,
    *,
    remote: Remote | None = None,
    note: Note = lambda text: None,
    report: Report | None = None,
) -> Report:
    """Measures everything that can be measured; the rest is in the report with the reason.

    Args:
        report: is filled as the run goes on, so that an interrupted one can be shown, too.
    """
    report = report if report is not None else Report()
    report.midge = midge.__version__
    report.begun_at = datetime.now(UTC).isoformat(timespec="seconds")
    begun = time.monotonic()
    report.host = await asyncio.to_thread(hostinfo.describe, options.scratch)
    report.warnings += hostinfo.warnings(report.host)
    if report.host.data_filesystem in ("tmpfs", "ramfs"):
        report.warnings.append(
            f"{options.scratch} is a {report.host.data_filesystem}: nothing is durable there"
        )
    try:
        for group in groups(benchmarks, drivers, remote):
            _check_interrupted()
            await _run_group(group, options, remote, note, report)
    except (asyncio.CancelledError, KeyboardInterrupt):
        report.interrupted = True
        raise
    finally:
        report.seconds = round(time.monotonic() - begun, 1)
    return report


def groups(benchmarks: Sequence[Benchmark], drivers: Sequence[str], remote: Remote | None) -> list[Group]:
    """Which benchmark runs where. One that knows no wanted driver runs with its own first, once."""
    if remote is not None:
        return [Group(remote.driver, "", tuple(benchmarks))]
    found_groups: list[Group] = []
    wanted: dict[str, list[Benchmark]] = {}
    for one in benchmarks:
        for driver in [d for d in drivers if d in one.drivers] or [one.drivers[0]]:
            wanted.setdefault(driver, []).append(one)
    for driver, found in wanted.items():
        flavours = target.flavours() if driver == "qemu" else [""]
        shared = [one for one in found if not one.fresh_server]
        for flavour in flavours:
            # Where the kernel is not the question, the fastest one will do: it comes last.
            chosen = tuple(one for one in shared if one.each_kernel or flavour == flavours[-1])
            if chosen:
                found_groups.append(Group(driver, flavour, chosen))
        found_groups += [Group(driver, flavours[-1], (one,)) for one in found if one.fresh_server]
    return found_groups


async def _run_group(
    group: Group, options: Options, remote: Remote | None, note: Note, report: Report
) -> None:
    where = f"{group.driver} {group.flavour}".strip()
    note(f"{where}: starting a server" if remote is None else f"using {remote.url}")
    try:
        async with _opened(group, options, remote) as (server, api):
            if server.acceleration:
                report.acceleration[where] = server.acceleration
            for benchmark in group.benchmarks:
                note(f"{where}: {benchmark.name}")
                context = Context(
                    bench=benchmark.name, target=server, api=api, options=options, report=report, note=note
                )
                await _run_one(benchmark, context)
    except CannotMeasure as error:
        reason = f"{error}" + (f" ({error.hint})" if error.hint else "")
        done = {(m.bench, m.driver) for m in report.measurements}
        report.skipped += [
            Skipped(bench=one.name, driver=group.driver, variant=group.flavour, reason=reason)
            for one in group.benchmarks
            if (one.name, group.driver) not in done
        ]


async def _run_one(benchmark: Benchmark, context: Context) -> None:
    _check_interrupted()
    try:
        with no_full_collections():  # of the client, whose pauses would be in the figures
            await benchmark.run(context)
    except BenchError as error:
        context.skip(str(error) + (f" ({error.hint})" if error.hint else ""))
        context.note(f"{benchmark.name}: {error}")


def _check_interrupted() -> None:
    """An interrupt that met another error is lost in that error: here it ends the run all the same."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@asynccontextmanager
async def _opened(group: Group, options: Options, remote: Remote | None) -> AsyncIterator[tuple[Target, Api]]:
    opening: AbstractAsyncContextManager[Target]
    if remote is None:
        opening = target.own_server(group.driver, flavour=group.flavour, scratch=options.scratch)
    else:
        opening = target.running_server(remote.url, remote.token, remote.driver, APP)
    async with opening as server, open_api(server.server, server.app) as api:
        with scratch(options.scratch) as folder:
            archive = await asyncio.to_thread(image.archive, folder)
        await api.import_image(archive)
        await api.create_app()
        try:
            yield server, api
        finally:
            api.connection.close()
