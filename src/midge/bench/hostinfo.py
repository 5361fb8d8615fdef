"""What kind of host this is: figures without it mean nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from midge.bench import fsync
from midge.bench.model import HostInfo

VERSION_TIMEOUT_S = 10.0
# Programs that take part, and how each says its version.
PROGRAMS = ("qemu-system-x86_64", "runc", "crun", "podman")
# One-minute load average over the number of CPUs from which on figures are doubtful.
LOAD_HIGH = 0.5


def describe(folder: Path) -> HostInfo:
    """The host, as it is before anything is measured. Blocks for about a second.

    Args:
        folder: where the server's data will lie: its disk counts.
    """
    load = list(os.getloadavg())
    return HostInfo(
        cpu_model=cpu_model(Path("/proc/cpuinfo").read_text()),
        cpus=os.cpu_count() or 1,
        memory_mb=_memory_mb(),
        load_before=[round(value, 2) for value in load],
        fsync_ms=fsync.latency_ms(folder),
        data_filesystem=filesystem(folder, Path("/proc/self/mountinfo").read_text()),
        versions={"linux": platform.release(), "python": platform.python_version(), **_programs()},
    )


def warnings(host: HostInfo) -> list[str]:
    """Why the figures of this run should not be trusted."""
    if host.load_before[0] > LOAD_HIGH * host.cpus:
        return [
            f"load average was {host.load_before[0]:g} on {host.cpus} CPUs before the first measurement: "
            "others use this host, and the figures are too high"
        ]
    return []


def cpu_model(cpuinfo: str) -> str:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def filesystem(folder: Path, mountinfo: str) -> str:
    """Type of the file system `folder` lies on (proc_pid_mountinfo(5))."""
    path = str(folder.resolve())
    best, kind = -1, "unknown"
    for line in mountinfo.splitlines():
        mount, _, rest = line.partition(" - ")
        point = mount.split()[4]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), rest.split()[0]
    return kind


def _memory_mb() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (1024 * 1024)


def _programs() -> dict[str, str]:
    found = {}
    for name in PROGRAMS:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            output = subprocess.run(
                [path, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        found[name] = output.partition("\n")[0].strip()
    return found
