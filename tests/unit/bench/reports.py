"""A report as a run would leave it, for tests."""

from __future__ import annotations

from typing import Any

from midge.bench.model import HostInfo, Measurement, Phases, Report, Skipped

HOST = HostInfo(
    cpu_model="Some CPU",
    cpus=2,
    memory_mb=4096,
    load_before=[0.1, 0.2, 0.3],
    fsync_ms=[1.0, 2.0, 3.0],
    data_filesystem="ext4",
    versions={"linux": "6.1", "runc": "runc version 1.1.5+ds1"},
)


def measured(name: str, samples: list[float], **more: Any) -> Measurement:
    fields = {"bench": "start", "driver": "container", "unit": "ms", **more}
    return Measurement(name=name, samples=samples, **fields)


def report(*measurements: Measurement, **more: Any) -> Report:
    fields = {
        "midge": "0.1.0",
        "begun_at": "2026-01-02T03:04:05+00:00",
        "seconds": 12.0,
        "host": HOST,
        **more,
    }
    return Report(measurements=list(measurements), **fields)


def full() -> Report:
    return report(
        measured(
            "first byte", [40.0, 50.0, 60.0], floor="floor: first byte", note="seen through the log file"
        ),
        measured("floor: first byte", [25.0]),
        phases=[Phases(bench="start", driver="container", variant="", phases=[("a", [1.0]), ("b", [4.0])])],
        skipped=[Skipped(bench="suspend", driver="qemu", variant="kernel=debian", reason="it cannot")],
    )
