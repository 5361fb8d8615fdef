"""A full disk: what needs room fails and says so, everything else goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import needs_driver
from tests.e2e.serve import App, Serve

pytestmark = [pytest.mark.slow, pytest.mark.root]

DISK_MB = 640
IMAGE = "midge/hello:latest"


@pytest.fixture(
    params=[
        pytest.param("qemu", marks=pytest.mark.vm),
        pytest.param("container", marks=pytest.mark.container),
    ]
)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serve]:
    """A server whose data lie on a disk of their own."""
    needs_driver(request.param)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(disk)], check=True)
    serve = Serve(disk, request.param)
    try:
        serve.start()
        yield serve
        serve.close()
    finally:
        if serve.is_running():
            serve.kill()
        subprocess.run(["umount", str(disk)], check=True)


def fill(serve: Serve, leave_mb: int) -> Path:
    """A file that takes all of the disk but so much."""
    ballast = serve.base / "ballast"
    free = os.statvfs(serve.base)
    size = free.f_bavail * free.f_frsize - (leave_mb << 20)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return ballast


@pytest.mark.parametrize("leave_mb", [100, 1], ids=["hardly any room", "no room at all"])
def test_a_create_fails_and_succeeds_once_there_is_room(
    small: Serve, hello_url: str, new_app: Callable[[Serve], App], leave_mb: int
) -> None:
    app = new_app(small)
    ballast = fill(small, leave_mb)
    done = app.run(hello_url, "echo", "hi", options=("--rm",))
    assert done.returncode == 125, done.stdout
    assert "space" in done.stderr or "kept in reserve" in done.stderr, done.stderr
    assert "hint: remove unused images or enlarge the disk" in done.stderr, done.stderr
    assert small.call("GET", app.path) == []
    assert small.call("GET", "/v1/images") == []
    ballast.unlink()
    assert small.call("GET", "/readyz")["ready"] is True
    again = app.run(hello_url, "echo", "hi", options=("--rm",))
    assert (again.returncode, again.stdout) == (0, "hi\n"), again.stderr


def test_running_machines_do_not_mind_a_full_disk(
    small: Serve, hello_url: str, new_app: Callable[[Serve], App]
) -> None:
    app = new_app(small)
    machine = app.create({"image": hello_url})
    ballast = fill(small, 2)
    assert "<title>" in machine.page()
    assert machine.exec("echo", "hi")["stdout"] == "hi\n"
    machine.stop()
    ballast.unlink()
    machine.start()
    assert "<title>" in machine.page()
