"""Servers that cannot start say why, and leave nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import needs_driver
from tests.e2e.serve import READY_TIMEOUT_S, STOP_TIMEOUT_S, Serve, until

pytestmark = [pytest.mark.slow, pytest.mark.root]


@pytest.mark.parametrize(
    ("driver", "options", "code", "said", "hint"),
    [
        ("container", ("--runtime", "/no/such/runtime"), 1, "/no/such/runtime is not installed", "apt-get"),
        ("qemu", ("--kernel", "custom", "--kernels-dir", "{empty}"), 3, "no custom kernel", "midge kernel"),
        (
            "mock",
            ("--subnet", "10.99.0.0/99"),
            2,
            "subnet: '10.99.0.0/99' is no IPv4 network",
            "10.61.0.0/16",
        ),
        ("mock", ("--listen", "0.0.0.0:0"), 2, "can be reached from other hosts", "tls_cert"),
        ("mock", ("--region", "Too Long!"), 2, "region", ""),
        ("mock", ("--driver", "no-such-driver"), 2, "no-such-driver", "midge serve --help"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, driver: str, options: tuple[str, ...], code: int, said: str, hint: str
) -> None:
    serve = Serve(tmp_path, driver)
    (tmp_path / "empty").mkdir()
    given = [option.format(empty=tmp_path / "empty") for option in options]
    try:
        done = subprocess.run(
            serve.command(*given),
            env=serve.env,
            capture_output=True,
            text=True,
            timeout=READY_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert hint in done.stderr
        assert "Traceback" not in done.stderr
        assert "TaskGroup" not in done.stderr
        assert not [thing for thing in serve.leftovers() if not thing.startswith("file: ")]
    finally:
        serve.close()


@pytest.mark.container
def test_a_server_told_to_stop_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    needs_driver("container")
    serve = Serve(tmp_path, "container")
    try:
        process = subprocess.Popen(
            serve.command(), env=serve.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: bool(serve.state().netns), READY_TIMEOUT_S)
        process.terminate()
        assert process.wait(STOP_TIMEOUT_S) == 0
        assert not [thing for thing in serve.leftovers() if not thing.startswith("file: ")]
    finally:
        serve.close()
