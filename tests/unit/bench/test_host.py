from __future__ import annotations

from pathlib import Path

import msgspec

from midge.bench import fsync, hostinfo
from midge.bench.memory import private_kb
from tests.unit.bench.reports import HOST

SMAPS = """\
7f00-7f01 rw-s 00000000 00:01 12 /dev/shm/midge-x/s1
Rss:                 100 kB
Private_Dirty:        60 kB
7f02-7f03 rw-p 00000000 00:00 0
Private_Clean:         7 kB
Private_Dirty:         5 kB
"""
MOUNTS = """\
22 1 0:1 / / rw - ext4 /dev/vda rw
23 22 0:2 / /run rw,nosuid - tmpfs tmpfs rw
24 22 0:3 / /running rw - xfs /dev/vdb rw
"""


def test_private_memory_is_what_nobody_else_maps() -> None:
    assert private_kb(SMAPS) == 65


def test_a_file_that_is_counted_by_itself_is_left_out() -> None:
    assert private_kb(SMAPS, outside="/dev/shm/midge-x/s1") == 5


def test_the_innermost_mount_counts() -> None:
    assert hostinfo.filesystem(Path("/run/midge"), MOUNTS) == "tmpfs"
    assert hostinfo.filesystem(Path("/running/x"), MOUNTS) == "xfs"
    assert hostinfo.filesystem(Path("/var"), MOUNTS) == "ext4"


def test_a_cpu_is_named_by_its_model() -> None:
    assert hostinfo.cpu_model("processor\t: 0\nmodel name\t: A CPU @ 1 GHz\n") == "A CPU @ 1 GHz"


def test_a_busy_host_is_warned_about() -> None:
    assert hostinfo.warnings(HOST) == []
    busy = msgspec.structs.replace(HOST, load_before=[1.5, 0.0, 0.0])
    assert "load average was 1.5 on 2 CPUs" in hostinfo.warnings(busy)[0]


def test_fsync_leaves_no_file(tmp_path: Path) -> None:
    assert len(fsync.latency_ms(tmp_path, samples=3)) == 3
    assert list(tmp_path.iterdir()) == []
