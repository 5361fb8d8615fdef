"""The command line of a shim, where it is found, and what its files say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from midge import binaries
from midge.drivers.shim import ShimSpec, VsockChannel
from midge.drivers.shim_files import ProcessIdentity, read_state
from midge.errors import DriverError, MidgeError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_least_command_line() -> None:
    spec = ShimSpec(rundir=Path("/r"), program=("vmm", "--x"), log=Path("/l"), channel=3)
    assert spec.argv(Path("/bin/midge-shim"), 4) == [
        *("/bin/midge-shim", "--dir", "/r", "--ready-fd", "4", "--log", "/l", "--log-max-bytes", "10485760"),
        *("--log-keep", "3", "--channel-fd", "3", "--", "vmm", "--x"),
    ]


def test_full_command_line() -> None:
    spec = ShimSpec(
        rundir=Path("/r"),
        program=("vmm",),
        log=Path("/l"),
        channel=VsockChannel(Path("/v"), 52),
        netns=Path("/n"),
        cgroups=(Path("/c1"), Path("/c2")),
        uid=1,
        gid=2,
        groups=(3,),
        nofile=4,
        oom_score=-5,
        no_new_privs=True,
        pid_file=Path("/p"),
        pass_fds=(7,),
    )
    text = " ".join(spec.argv(Path("/s"), 4))
    for part in (
        "--netns /n",
        "--uid 1 --gid 2",
        "--nofile 4",
        "--oom-score -5",
        "--pid-file /p",
        "--cgroup /c1 --cgroup /c2",
        "--group 3",
        "--pass-fd 7",
        "--no-new-privs",
        "--channel-vsock /v:52 -- vmm",
    ):
        assert part in text


def test_binary_is_found_where_the_environment_says(tmp_path: Path) -> None:
    program = tmp_path / "midge-thing"
    program.touch(mode=0o755)
    assert binaries.find("midge-thing", {"MIDGE_BIN_DIR": str(tmp_path)}) == program
    program.chmod(0o644)
    with pytest.raises(binaries.BinaryMissing) as caught:
        binaries.find("midge-thing", {"MIDGE_BIN_DIR": str(tmp_path)})
    assert isinstance(caught.value, MidgeError)
    assert "cargo build" in caught.value.hint


def test_empty_run_directory_says_nothing(tmp_path: Path) -> None:
    state = read_state(tmp_path)
    assert (state.record, state.exit, state.ended, state.shim_alive, state.child_alive) == (
        *(None, None, None),
        *(False, False),
    )


def test_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text("{")
    with pytest.raises(DriverError, match=r"exit\.json is damaged"):
        read_state(tmp_path)


def test_identity_tells_a_process_from_a_later_one() -> None:
    start_time = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert ProcessIdentity(os.getpid(), start_time, BOOT_ID).is_alive()
    for other in (
        ProcessIdentity(os.getpid(), start_time + 1, BOOT_ID),
        ProcessIdentity(os.getpid(), start_time, "other boot"),
        ProcessIdentity(0, 0, BOOT_ID),
    ):
        assert not other.is_alive()
        assert not other.kill()


def test_ended_process_is_not_alive_before_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-ISEc", "input()"], stdin=subprocess.PIPE) as process:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        identity = ProcessIdentity(process.pid, int(stat.rpartition(")")[2].split()[19]), BOOT_ID)
        assert identity.is_alive()
        assert identity.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not identity.is_alive()
        assert not identity.kill()
    assert not identity.is_alive()
