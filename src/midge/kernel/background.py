"""A build of the trimmed kernel that goes on by itself, at the lowest priority, until it is ended or done.

`DATA/kernel-build.json` says which process it is, `DATA/kernel-build.log` what it prints. The process is told from one
that has its number by now by the time it began, as the kernel counts it (proc_pid_stat(5), field 22).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

State = Literal["none", "building", "ended"]

RECORD = "kernel-build.json"
LOG = "kernel-build.log"
SCRATCH = "kernel-build"
STOP_TIMEOUT_S = 10.0  # from the kill until the processes are gone, on a loaded host
STOP_LOOK_S = 0.02
DESCENDANTS_MAX = 4096  # a compiler for each processor, and make above them
# Tools of the `kernel` group of scripts/packages.txt; without them a build ends before it has begun.
TOOLS = ("make", "gcc", "bc", "flex", "bison")
_BEGAN = 22  # field of /proc/PID/stat, counted from 1


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """`began` in the kernel's clock ticks since the host's boot."""

    pid: int
    began: int


def missing_tools() -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def begin(data_dir: Path, command: Sequence[str]) -> Path:
    """Begins `command` in a session of its own, unless one runs already. Returns the log.

    It gets ``--scratch DIR`` as its last words: a directory in `data_dir` that `clear` removes.
    """
    log, scratch = data_dir / LOG, data_dir / SCRATCH
    if state(data_dir) == "building":
        return log
    clear(data_dir)
    # Idle in every respect, so that whatever else the host has to do comes first.
    idle = ["nice", "-n", "19", *(["ionice", "-c", "3"] if shutil.which("ionice") else [])]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*idle, *command, "--scratch", str(scratch)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    record = Build(pid=process.pid, began=_began(process.pid))
    (data_dir / RECORD).write_bytes(msgspec.json.encode(record))
    return log


def state(data_dir: Path) -> State:
    """``ended``: one was begun and is not there any more, whether it worked or not."""
    build = _read(data_dir)
    if build is None:
        return "none"
    return "building" if build.began and _began(build.pid) == build.began else "ended"


def end(data_dir: Path) -> bool:
    """Ends a build that runs, with everything it has started. Blocks until it is gone; `clear` removes its files."""
    build = _read(data_dir)
    if build is None or state(data_dir) != "building":
        return False
    _kill(build.pid)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while state(data_dir) == "building" and time.monotonic() < deadline:
        time.sleep(STOP_LOOK_S)
    (data_dir / RECORD).unlink(missing_ok=True)
    return True


def clear(data_dir: Path) -> None:
    """Removes what an ended build was writing: some eighty thousand files, which takes a while. Blocks."""
    if state(data_dir) != "building":
        shutil.rmtree(data_dir / SCRATCH, ignore_errors=True)


def last_words(data_dir: Path) -> str:
    """The last line of the log, empty without one."""
    try:
        lines = (data_dir / LOG).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _kill(leader: int) -> None:
    """Kills a process and all below it; its tools run in process groups of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(leader, signal.SIGSTOP)  # from here on it starts nothing that would be missed
    found = [leader]
    for pid in found:
        if len(found) > DESCENDANTS_MAX:
            break
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in children.read_text().split()]
    groups = []
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            groups.append(os.getpgid(pid))
    for group in dict.fromkeys(groups):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _read(data_dir: Path) -> Build | None:
    try:
        return msgspec.json.decode((data_dir / RECORD).read_bytes(), type=Build)
    except (OSError, msgspec.MsgspecError):
        return None


def _began(pid: int) -> int:
    """0 for a process that has ended, reaped or not."""
    try:
        # The name, in parentheses, may hold blanks and parentheses of its own.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[_BEGAN - 3])
