from __future__ import annotations

import msgspec
import pytest
from bench import page

from midge.bench import report as text
from midge.bench.model import Phases, Report
from tests.unit.bench.reports import full, measured, report


def test_a_row_shows_the_ratio_to_the_floor() -> None:
    first, floor = text.rows(full())
    assert first == ("start", "container", "first byte", "3", "50.0", "-", "-", "40.0", "60.0", "ms", "2.00")
    assert floor[-1] == "-"


def test_percentiles_need_enough_samples() -> None:
    few, many = text.rows(report(measured("few", [1.0] * 9), measured("many", [1.0] * 100)))
    assert few[5:7] == ("-", "-")
    assert many[5:7] == ("1.00", "1.00")


def test_a_kernel_is_named_with_its_driver() -> None:
    assert text.driver("qemu", "kernel=debian") == "qemu, debian kernel"
    assert text.driver("mock", "") == "mock"


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.123, "0.12"), (9.99, "9.99"), (12.34, "12.3"), (123.4, "123")]
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert text.number(value) == shown


def test_phases_are_bars_one_after_another() -> None:
    phases = Phases(
        bench="start", driver="qemu", variant="", way="warm slot", phases=[("a", [1.0, 3.0]), ("b", [4.0])]
    )
    head, first, second = text.phase_lines(phases)
    assert head == "phases of start, qemu, warm slot (medians: how long, and until when, ms)"
    half = text.BAR_COLUMNS // 2
    assert first.split() == ["a", "2.00", "2.00", "█" * half]
    assert second.split() == ["b", "2.00", "4.00", "█" * half]
    assert second.index("█") == first.index("█") + half


def test_no_bar_is_wider_than_the_chart() -> None:
    many = [(f"p{n}", [100.0 if n else 0.001]) for n in range(9)]
    lines = text.phase_lines(Phases(bench="start", driver="qemu", variant="", phases=many))
    widest = max(line.rindex("█") - line.index("p") for line in lines[1:])
    assert widest <= len("p0  ") + 2 * len("   0.00  ") + text.BAR_COLUMNS


def test_goals_are_shown_with_what_comes_next() -> None:
    row = text.goal_rows(full())[0]
    assert row == (
        "start: first byte, ratio",
        "container",
        "<= 1.60 × floor",
        "2.00",
        "missed",
        "<= 1.20 not yet",
    )


def test_the_host_is_described() -> None:
    lines = text.host_lines(full())
    assert "Some CPU, 2 CPUs, 4 GiB" in lines
    assert "linux 6.1, runc 1.1.5+ds1" in lines
    assert "ext4, fsync of 4 KiB p50 2.00 ms, p99 2.98 ms" in lines


def test_what_was_skipped_says_why() -> None:
    assert text.skipped_lines(full()) == ["suspend (qemu, debian kernel) not measured: it cannot"]


def test_a_report_survives_its_file() -> None:
    assert msgspec.json.decode(msgspec.json.encode(full()), type=Report) == full()


def test_the_page_keeps_what_is_around_the_markers() -> None:
    before = f"head\n{page.BEGIN}\nold\n{page.END}\ntail\n"
    once = page.replace(before, full())
    assert once.startswith("head\n") and once.endswith("\ntail\n")
    assert "old" not in once and "| start | container | first byte |" in once
    assert page.replace(once, full()) == once


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError):
        page.replace("nothing", full())
