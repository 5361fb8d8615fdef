"""`midge bench`: measure this host, from the side of a client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from midge.cli import exits
from midge.cli.failure import doing
from midge.cli.options import command
from midge.cli.session import Session

if TYPE_CHECKING:
    from midge.bench.context import Benchmark
    from midge.bench.model import Report
    from midge.bench.runner import Remote


@command("bench")
@click.argument("names", nargs=-1, metavar="[BENCHMARK]...", help="Only these.")
@click.option(
    "--driver",
    "drivers",
    multiple=True,
    type=click.Choice(["mock", "container", "qemu"]),
    help="How the machines run; may be given several times. [default: qemu]",
)
@click.option("-n", "--samples", type=click.IntRange(1, 10_000), help="How many of each.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 500),
    default=None,
    help="Machines and clients where many things happen at once. [default: 50]",
)
@click.option(
    "--machines",
    type=click.IntRange(1, 100_000),
    default=None,
    help="Stopped machines that control-plane makes. [default: 10000]",
)
@click.option(
    "--quick", is_flag=True, help="Few of everything: shows that it works, the figures are worth nothing."
)
@click.option("--no-floor", is_flag=True, help="Leave out the same work without Midge.")
@click.option("--peers", is_flag=True, help="Measure podman and docker too, where they are installed.")
@click.option(
    "--dir",
    "scratch",
    default="",
    metavar="DIR",
    help="Where the server's data lie meanwhile: its disk counts. [default: /var/tmp]",
)
def bench(
    session: Session,
    names: tuple[str, ...],
    drivers: tuple[str, ...],
    samples: int | None,
    concurrency: int | None,
    machines: int | None,
    quick: bool,
    no_floor: bool,
    peers: bool,
    scratch: str,
) -> int:
    """Measure how fast this host starts, creates and runs machines.

    A server is started for it and removed afterwards; with --url, a running one is measured. Benchmarks: start, exec,
    create, suspend, resume, density, control-plane. Goals are shown beside the figures and never change the exit code.
    """
    from midge.bench import runner
    from midge.bench.context import QUICK, Options
    from midge.bench.model import Report
    from midge.bench.target import SCRATCH

    defaults = QUICK if quick else Options()
    options = Options(
        samples=samples or defaults.samples,
        concurrency=concurrency or defaults.concurrency,
        machines=machines or defaults.machines,
        floors=not no_floor,
        peers=peers,
        scratch=Path(scratch) if scratch else SCRATCH,
    )
    report = Report()
    chosen = _chosen(names)
    remote = _remote(session)
    with doing("measure"):
        try:
            runner.run_interruptibly(
                runner.run(
                    chosen, drivers or ("qemu",), options, remote=remote, note=session.out.note, report=report
                )
            )
        finally:
            if report.measurements or report.skipped:
                _show(session, report)
    return exits.OK if report.measurements else exits.FAILED


def _chosen(names: tuple[str, ...]) -> list[Benchmark]:
    from midge.bench import suite

    found = {one.name: one for one in suite.load()}
    if unknown := set(names) - set(found):
        raise click.UsageError(f"no benchmark {sorted(unknown)[0]!r}; there are {', '.join(found)}")
    return [found[name] for name in dict.fromkeys(names or found)]


def _remote(session: Session) -> Remote | None:
    """The server of --url or a context; none that was merely found: its machines are not ours to disturb."""
    from midge.bench.runner import Remote

    wanted = session.wanted()
    if not (wanted.url or wanted.context):
        return None
    endpoint = session.endpoint()
    status = session.client.server.status()
    driver = str(status.get("driver") or (status.get("host") or {}).get("driver") or "unknown")
    return Remote(endpoint.url.value, endpoint.token.value, driver)


def _show(session: Session, report: Report) -> None:
    import msgspec

    from midge.bench import report as text

    out = session.out
    if out.json:
        out.document(msgspec.to_builtins(report))
        return
    if not out.quiet:
        for line in (*text.host_lines(report), ""):
            out.line(line)
    for warning in report.warnings:
        out.warn(warning)
    out.table(text.HEADERS, text.rows(report))
    for phases in report.phases:
        out.line()
        for line in text.phase_lines(phases):
            out.line(line)
    if goals := text.goal_rows(report):
        out.line()
        out.table(text.GOAL_HEADERS, goals)
    for line in (*text.skipped_lines(report), *text.notes(report)):
        out.note(line)
