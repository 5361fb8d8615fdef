"""The OCI runtime configuration (config.json, runtime-spec 1.0.2) of one machine. Pure.

PID 1 is midge-init, bound read-only into the container's /dev, which is a tmpfs: neither the image nor the writable
layer shows a trace of it. The machine's own process, user, environment and files never come near this file, which any
reader of the run directory can see: init gets them over its channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

INIT_PATH = "/dev/.midge-init"
# Descriptor numbers 0 to 2 are the standard streams, so the first that a runtime passes on.
CONTROL_FD = 3
SHM_MIN_MB = 64
NOFILE_MAX = 65_536  # open files of a process; what CONFIGURE says is within it

# What root in a container may still do. Docker's set, for images are written for it.
CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
# Files of the kernel that tell about other containers and the host, or reach its memory and firmware.
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What differs from one container to the next.

    Attributes:
        root: directory the runtime makes the root; empty where `overlay` is mounted over it.
        overlay: mount options of the root, or None if it is mounted already.
        init: the binary on the host.
        netns: the machine's network namespace; None gives it one with nothing but loopback.
        cgroups_path: relative to the mount of each hierarchy, with a leading slash; None leaves it to the runtime.
        nofile: limit of open files of a process.
        seccomp: the member of that name, or None.
    """

    root: Path
    overlay: str | None
    init: Path
    hostname: str
    netns: Path | None
    cgroups_path: str | None
    memory_mb: int
    oom_score: int
    nofile: int
    seccomp: dict[str, Any] | None


def config(bundle: Bundle) -> dict[str, Any]:
    """The document for ``config.json``."""
    linux: dict[str, Any] = {
        "namespaces": _namespaces(bundle.netns),
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
    }
    if bundle.cgroups_path is not None:
        linux["cgroupsPath"] = bundle.cgroups_path
    if bundle.seccomp is not None:
        linux["seccomp"] = bundle.seccomp
    return {
        "ociVersion": "1.0.2",
        "hostname": bundle.hostname,
        "process": _process(bundle),
        "root": {"path": str(bundle.root), "readonly": False},
        "mounts": _mounts(bundle),
        "linux": linux,
    }


def _process(bundle: Bundle) -> dict[str, Any]:
    capabilities = list(CAPABILITIES)
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": [INIT_PATH, "--container"],
        "env": [f"MIDGE_CONTROL_FD={CONTROL_FD}"],
        "cwd": "/",
        # Nothing inheritable: an unprivileged program would otherwise get capabilities through its file's.
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": bundle.nofile, "soft": bundle.nofile}],
        # Set-user-ID programs of images (sudo, ping) are to work.
        "noNewPrivileges": False,
        "oomScoreAdj": bundle.oom_score,
    }


def _namespaces(netns: Path | None) -> list[dict[str, str]]:
    network = {"type": "network"} if netns is None else {"type": "network", "path": str(netns)}
    return [network, *({"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup"))]


def _mounts(bundle: Bundle) -> list[dict[str, Any]]:
    strict = ["nosuid", "noexec", "nodev"]
    # As in a virtual machine, half of the memory; its pages count towards the machine's limit.
    shm_mb = max(SHM_MIN_MB, bundle.memory_mb // 2)
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    mounts = [
        _mount("/proc", "proc", strict),
        _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", pts),
        _mount("/dev/shm", "tmpfs", [*strict, "mode=1777", f"size={shm_mb}m"], source="shm"),
        _mount("/dev/mqueue", "mqueue", strict),
        _mount("/sys", "sysfs", [*strict, "ro"]),
        _mount("/sys/fs/cgroup", "cgroup", [*strict, "relatime", "ro"]),
        _mount(INIT_PATH, "bind", ["bind", "ro", "nosuid", "nodev"], source=str(bundle.init)),
    ]
    if bundle.overlay is not None:
        mounts.insert(0, _mount("/", "overlay", bundle.overlay.split(",")))
    return mounts


def _mount(target: str, fstype: str, options: list[str], *, source: str = "") -> dict[str, Any]:
    return {"destination": target, "type": fstype, "source": source or fstype, "options": options}
