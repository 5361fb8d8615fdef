"""Server and command line do not depend on what started them: see `tests/hostile.py`."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Maker
from tests.e2e.serve import Machine, Serve

pytestmark = [pytest.mark.slow, pytest.mark.root]

PARENT = [sys.executable, str(Path(__file__).parents[1] / "hostile.py")]
IMAGE = "midge/hello:latest"
# Of the machine's process, as the kernel shows them: one bit for each signal.
STATUS = "umask; grep -E 'SigIgn|SigBlk' /proc/self/status; ls /proc/self/fd"


@pytest.fixture(
    params=[
        pytest.param("qemu", marks=pytest.mark.vm),
        pytest.param("container", marks=pytest.mark.container),
    ]
)
def serve(request: pytest.FixtureRequest, own: Maker) -> Serve:
    return own(request.param, parent=PARENT)


def test_machines_run_whatever_started_the_server(serve: Serve) -> None:
    """The fixture has imported an image through the same parent, and stops the server by a signal at the end."""
    app = serve.app("hostile")
    web = app.create({"image": IMAGE}, name="web")
    assert "<title>" in web.page()
    _is_clean(serve.ok("machine", "exec", "-a", app.name, "web", "sh", "-c", STATUS))
    done = app.run(IMAGE, "sh", "-c", STATUS + "; exit 7", options=("--rm",))
    assert done.returncode == 7, done.stderr
    _is_clean(done.stdout)
    _stops_by_its_signal(web)
    assert stat.S_IMODE((serve.data_dir / "server.json").stat().st_mode) == 0o644
    assert stat.S_IMODE((serve.data_dir / "token").stat().st_mode) == 0o600


def _is_clean(output: str) -> None:
    umask, *masks_and_descriptors = output.split()
    assert umask == "0022"
    blocked, ignored = masks_and_descriptors[1], masks_and_descriptors[3]
    assert (int(blocked, 16), int(ignored, 16)) == (0, 0), output
    assert len(masks_and_descriptors[4:]) <= 4, output  # standard ones, and the folder that ls reads


def _stops_by_its_signal(machine: Machine) -> None:
    machine.stop()
    exits = [event for event in machine.events() if event["type"] == "exit"]
    assert [event["request"]["exit_event"]["requested_stop"] for event in exits] == [True]
