"""A report as people read it: tables of figures, phases as bars, goals. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from midge.bench.goals import Goal, Judged, judge
from midge.bench.model import HostInfo, Measurement, Phases, Report
from midge.bench.stats import ENOUGH_FOR_P90, ENOUGH_FOR_P99, percentile, ratio, summarize

Row = tuple[str, ...]
HEADERS: Row = ("BENCHMARK", "DRIVER", "MEASURED", "N", "P50", "P90", "P99", "MIN", "MAX", "UNIT", "× FLOOR")
GOAL_HEADERS: Row = ("GOAL", "DRIVER", "LIMIT", "MEASURED", "", "NEXT")
NONE = "-"
BAR_COLUMNS = 40


def rows(report: Report) -> list[Row]:
    """A row for each measurement. Percentiles that so few samples cannot tell are left out."""
    return [_row(report, measured) for measured in report.measurements]


def _row(report: Report, measured: Measurement) -> Row:
    summary = summarize(measured.samples)
    floor = report.find(measured.bench, measured.driver, measured.variant, measured.floor)
    times = ratio(measured.samples, floor.samples) if floor is not None else None
    return (
        measured.bench,
        driver(measured.driver, measured.variant),
        measured.name,
        str(summary.n),
        number(summary.p50),
        number(summary.p90) if summary.n >= ENOUGH_FOR_P90 else NONE,
        number(summary.p99) if summary.n >= ENOUGH_FOR_P99 else NONE,
        number(summary.min),
        number(summary.max),
        measured.unit,
        NONE if times is None else f"{times:.2f}",
    )


def goal_rows(report: Report) -> list[Row]:
    return [_goal_row(judged, report) for judged in judge(report)]


def _goal_row(judged: Judged, report: Report) -> Row:
    goal = judged.goal
    unit = next((m.unit for m in report.measurements if (m.bench, m.name) == (goal.bench, goal.name)), "")
    if goal.statistic == "ratio":
        unit = f"× {_compared(goal, report)}"
    sign = ">=" if goal.at_least else "<="
    state = "not measured" if judged.value is None else "met" if judged.met else "missed"
    following = NONE
    if goal.next is not None:
        reached = "" if judged.value is None else " met" if judged.next_met else " not yet"
        following = f"{sign} {number(goal.next)}{reached}"
    return (
        f"{goal.bench}: {goal.name}, {goal.statistic}",
        driver(goal.driver, judged.variant),
        f"{sign} {number(goal.limit)} {unit}".rstrip(),
        NONE if judged.value is None else number(judged.value),
        state,
        following,
    )


def _compared(goal: Goal, report: Report) -> str:
    """What a ratio is of: the floor, or another measurement by its name."""
    found = next((m for m in report.measurements if (m.bench, m.name) == (goal.bench, goal.name)), None)
    return "floor" if found is None or found.floor.startswith("floor") else found.floor


def phase_lines(phases: Phases) -> list[str]:
    """Medians of one start's phases, as bars one after another: how long each lasted, and when it had ended."""
    medians = [(name, percentile(sorted(samples), 0.5)) for name, samples in phases.phases if samples]
    # Two that end at nearly the same moment, as the first byte and the word that it runs, may come either way round.
    medians.sort(key=lambda phase: phase[1])
    if not medians:
        return []
    total = max(end for _, end in medians) or 1.0
    width = max(len(name) for name, _ in medians)
    what = ", ".join(filter(None, (driver(phases.driver, phases.variant), phases.way)))
    lines = [f"phases of {phases.bench}, {what} (medians: how long, and until when, ms)"]
    before = 0.0
    for name, end in medians:
        first = min(round(before / total * BAR_COLUMNS), BAR_COLUMNS - 1)
        columns = max(1, round(end / total * BAR_COLUMNS) - first)
        bar = " " * first + "█" * columns
        lines.append(f"  {name:{width}}  {number(end - before):>7}  {number(end):>7}  {bar}".rstrip())
        before = end
    return lines


def host_lines(report: Report) -> list[str]:
    """What the figures were taken on."""
    host = report.host
    if host is None:
        return []
    lines = [
        f"{host.cpu_model}, {host.cpus} CPUs, {host.memory_mb / 1024:.0f} GiB",
        ", ".join(f"{name} {_version(text)}" for name, text in host.versions.items()),
        _disk(host),
        "load average before: " + ", ".join(f"{value:g}" for value in host.load_before),
    ]
    if report.acceleration:
        lines.append("acceleration: " + ", ".join(f"{k}: {v}" for k, v in report.acceleration.items()))
    return lines


def _disk(host: HostInfo) -> str:
    fsync = summarize(host.fsync_ms)
    return f"{host.data_filesystem}, fsync of 4 KiB p50 {number(fsync.p50)} ms, p99 {number(fsync.p99)} ms"


def skipped_lines(report: Report) -> list[str]:
    return [
        f"{one.bench} ({driver(one.driver, one.variant)}) not measured: {one.reason}"
        for one in report.skipped
    ]


def notes(report: Report) -> list[str]:
    """Each note once, with what it is about."""
    found: dict[str, str] = {}
    for measured in report.measurements:
        if measured.note:
            found.setdefault(measured.note, measured.name)
    return [f"{name}: {note}" for note, name in found.items()]


def driver(name: str, variant: str) -> str:
    kernel = variant.removeprefix("kernel=")
    return f"{name}, {kernel} kernel" if kernel else name


def number(value: float) -> str:
    """Three significant digits are all that a measurement has."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _version(text: str) -> str:
    """Without the program's own name, and what is in parentheses."""
    words = text.partition("(")[0].split()
    return next((word for word in words if word[:1].isdigit()), text)


def markdown_table(headers: Row, body: Sequence[Row]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(headers), line(["---"] * len(headers)), *(line(row) for row in body)]


def markdown(report: Report) -> str:
    """The generated part of docs/performance.md."""
    lines = [f"Measured {report.begun_at[:10]} with Midge {report.midge}, in {report.seconds:.0f} s.", ""]
    lines += [f"- {text}" for text in host_lines(report)]
    lines += [f"- **{text}**" for text in report.warnings]
    lines += ["", *markdown_table(HEADERS, rows(report)), ""]
    if goals := goal_rows(report):
        lines += ["Goals:", "", *markdown_table(GOAL_HEADERS, goals), ""]
    for phases in report.phases:
        if found := phase_lines(phases):
            lines += ["```", *found, "```", ""]
    if skipped := skipped_lines(report):
        lines += ["Not measured:", "", *(f"- {text}" for text in skipped), ""]
    lines += [f"- {text}" for text in notes(report)]
    return "\n".join(lines).rstrip() + "\n"
