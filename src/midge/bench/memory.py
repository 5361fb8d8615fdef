"""Memory of processes, from /proc (proc_pid_smaps(5)). All in MiB."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from midge.bench.errors import CannotMeasure
from midge.bench.hostinfo import filesystem
from midge.drivers import shim_files

PROCESSES_MAX = 4096  # of one machine; a fork bomb must not keep a benchmark busy
_KIB = 1024


class MachineMemory(NamedTuple):
    """`guest_mb`: what the memory file takes, whether mapped or not; 0 for a container."""

    total_mb: float
    guest_mb: float
    shim_mb: float


def machine_memory(rundir: Path) -> MachineMemory:
    """Of the machine with this run directory. Blocks.

    Raises:
        CannotMeasure: it does not run.
    """
    record = shim_files.read_state(rundir).record
    if record is None or not record.child_pid:
        raise CannotMeasure(f"no process is on record in {rundir}")
    file = memory_file(record.child_pid)
    guest_kb = file.stat().st_blocks * 512 // _KIB if file is not None else 0
    outside = str(file) if file is not None else ""
    own_kb = sum(private_kb(_smaps(pid), outside=outside) for pid in tree(record.child_pid))
    shim_kb = private_kb(_smaps(record.shim_pid))
    return MachineMemory((own_kb + shim_kb + guest_kb) / _KIB, guest_kb / _KIB, shim_kb / _KIB)


def resting_mb(rundir: Path, memory_dir: Path, machine: str) -> float:
    """What a machine that does not run still takes: processes on record, and files on tmpfs with its name. Blocks."""
    left_mb = 0.0
    with contextlib.suppress(CannotMeasure, OSError):
        left_mb += machine_memory(rundir).total_mb
    files = (
        [file for file in memory_dir.glob(f"*{machine}*") if file.is_file()] if memory_dir.is_dir() else []
    )
    return left_mb + sum(file.stat().st_blocks * 512 for file in files) / (_KIB * _KIB)


def memory_file(pid: int) -> Path | None:
    """The file a VMM keeps its guest's memory in, if it lies on tmpfs: there its pages are memory, mapped or not."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    match = re.search(r"mem-path=/proc/self/fd/(\d+)", words)
    if match is None:
        return None
    file = Path(f"/proc/{pid}/fd/{match[1]}").readlink()
    on_tmpfs = filesystem(file, Path("/proc/self/mountinfo").read_text()) == "tmpfs"
    return file if on_tmpfs and file.exists() else None


def private_kb(smaps: str, *, outside: str = "") -> int:
    """Dirty pages nobody else maps, without the mappings of the file `outside`."""
    total, counted = 0, True
    for line in smaps.splitlines():
        name, _, rest = line.partition(":")
        if "-" in name and " " in name:
            counted = not (outside and line.endswith(outside))
        elif counted and name == "Private_Dirty":
            total += int(rest.split()[0])
    return total


def rss_mb(pid: int) -> float:
    """Resident memory of one process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / _KIB
    raise CannotMeasure(f"process {pid} has no memory")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        if len(found) > PROCESSES_MAX:
            break
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def _smaps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/smaps").read_text()
    except OSError as error:
        raise CannotMeasure(f"memory of process {pid} cannot be read", hint="run it as root") from error
