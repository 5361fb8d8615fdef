"""One small run of everything on the mock driver: what is measured, and that nothing stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from midge.bench import runner, suite
from midge.bench.context import Options
from midge.bench.model import Report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox-static"),
]

N = 5


def _servers(scratch: Path) -> list[str]:
    """Command lines of processes that have to do with `scratch`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(scratch) in words:
                found.append(words.decode(errors="replace"))
    return found


@pytest.mark.anyio
async def test_a_run_measures_and_leaves_nothing(tmp_path: Path) -> None:
    options = Options(samples=N, concurrency=N, machines=20, scratch=tmp_path)
    report = Report()
    await runner.run(suite.load(), ["mock"], options, report=report)

    found = {(one.bench, one.name): one for one in report.measurements if one.driver == "mock"}
    for bench, name in (
        ("start", "started"),
        ("exec", "round trip"),
        ("create", "created"),
        ("suspend", "suspended"),
        ("resume", "exec answered"),
    ):
        assert len(found[bench, name].samples) == N, (bench, name)
        assert min(found[bench, name].samples) > 0
    assert ("start", f"started, {N} at once") in found
    assert found["start", f"started, {N} at once: failed"].samples == [0.0]
    assert found["create", f"created, {N} at once: failed"].samples == [0.0]
    assert ("control-plane", "restart to ready, 20 stopped") in found
    assert any(one.bench == "start" for one in report.phases)
    assert not report.interrupted
    assert list(tmp_path.iterdir()) == []
    assert _servers(tmp_path) == []
