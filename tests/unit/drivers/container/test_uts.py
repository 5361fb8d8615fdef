"""Which processes may be named: the container's own, and never the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from midge.cgroup import Cgroup
from midge.drivers.container import uts
from midge.errors import DriverError
from tests.unit.images.jail import open_handles


def group(folder: Path, *pids: int) -> Cgroup:
    (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return Cgroup("s1", 2, {"memory": folder})


def test_a_process_that_ended_is_told(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="has ended"):
        uts.open_namespace(2**22 + 1, group(tmp_path))


@pytest.mark.parametrize("inside", [True, False], ids=["in the host's namespace", "in no group"])
def test_others_are_refused(tmp_path: Path, inside: bool) -> None:
    before = open_handles()
    with pytest.raises(DriverError, match="is not the init of container s1"):
        uts.open_namespace(os.getpid(), group(tmp_path, *([os.getpid()] if inside else [])))
    assert open_handles() == before
