"""Knobs and places of the container driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from midge.drivers.pool_settings import PoolSettings
from midge.net.resolver import Nameservers, nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSettings:
    """Paths and choices.

    Attributes:
        rundir: sockets and small files of running machines; on a tmpfs, and short, since socket paths are limited to
            107 bytes.
        layers: writable layers of running machines; on a file system that overlayfs takes for its upper layer (not
            overlayfs, not NFS).
        machines: writable layers that outlive a run; the same holds for them.
        runtime: name or path of an OCI runtime; its command line is recognised by the name: runc, crun or runsc.
        mount_root: who mounts the root. ``runtime``: inside the container's mount namespace, so that it goes with it
            whatever happens; ``host``: in the host's, for runtimes that cannot; ``auto`` chooses by the runtime.
        seccomp: installs the filter of system calls.
        oom_score: added to the badness of everything in a machine, so that it goes before the services of the host do.
        pids_max: processes and threads of a machine.
        nameservers: what machines ask where they name none.
        pool: of containers that wait.
    """

    rundir: Path
    layers: Path
    machines: Path
    runtime: str = "runc"
    mount_root: Literal["auto", "runtime", "host"] = "auto"
    seccomp: bool = True
    oom_score: int = 500
    pids_max: int = 4096
    nameservers: Nameservers = nobody
    pool: PoolSettings = field(default_factory=PoolSettings)
