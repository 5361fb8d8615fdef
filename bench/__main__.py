"""Runs all benchmarks with all drivers, writes bench/results/<date>.json and the table in docs/performance.md.

python -m bench [--quick] [--driver NAME]... [--only BENCHMARK]...
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import msgspec

from bench import page
from midge.bench import runner, suite
from midge.bench.context import DRIVERS, QUICK, Options
from midge.bench.model import Report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PARTIAL = ROOT / "bench" / "out"  # not kept in the repository
PAGE = ROOT / "docs" / "performance.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few samples; only shows that it works")
    parser.add_argument("--driver", action="append", choices=DRIVERS, help="only this driver")
    parser.add_argument("--only", action="append", choices=[one.name for one in suite.load()])
    given = parser.parse_args()
    options = replace(QUICK if given.quick else Options(), peers=True)
    benchmarks = [one for one in suite.load() if not given.only or one.name in given.only]
    report = Report()
    try:
        runner.run_interruptibly(
            runner.run(
                benchmarks, given.driver or DRIVERS, options, note=lambda text: print(text, file=sys.stderr),
                report=report,
            )
        )  # fmt: skip
    except KeyboardInterrupt:
        print("interrupted: nothing is written", file=sys.stderr)
        return 130
    partial = bool(given.quick or given.only or given.driver)
    file = write(report, PARTIAL if partial else RESULTS)
    print(file.relative_to(ROOT))
    if partial:
        print("a part of the benchmarks: docs/performance.md stays as it is")
        return 0
    PAGE.write_text(page.replace(PAGE.read_text(), report))
    print(PAGE.relative_to(ROOT))
    return 0


def write(report: Report, folder: Path) -> Path:
    """The report with all samples; a second one of a day gets a number."""
    folder.mkdir(parents=True, exist_ok=True)
    day = report.begun_at[:10]
    names = [f"{day}.json", *(f"{day}-{number}.json" for number in range(2, 100))]
    file = next(path for name in names if not (path := folder / name).exists())
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return file


if __name__ == "__main__":
    sys.exit(main())
