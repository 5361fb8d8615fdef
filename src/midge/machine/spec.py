"""What a driver is told about a machine: everything resolved, nothing left to look up."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class Shape(msgspec.Struct, kw_only=True, frozen=True):
    """The hardware of a machine. Machines of one shape start from one template.

    `memory_mb` is in MiB; `cpu_kind` is ``shared`` or ``performance``.
    """

    cpus: int = 1
    memory_mb: int = 256
    cpu_kind: str = "shared"

    @property
    def key(self) -> str:
        return f"{self.cpu_kind[:1]}{self.cpus}c{self.memory_mb}m"


class NetworkSpec(msgspec.Struct, kw_only=True, frozen=True):
    """A machine's own addresses: `ipv4` without prefix, `mac` as six colon-separated pairs."""

    ipv4: str
    mac: str


class FileSpec(msgspec.Struct, kw_only=True, frozen=True):
    """A file written into the guest before the process runs."""

    path: str
    data: bytes
    mode: int = 0o644


class ImageSpec(msgspec.Struct, kw_only=True, frozen=True):
    """The image by digest, and what its configuration says about the process."""

    digest: str
    reference: str
    entrypoint: list[str] = []
    cmd: list[str] = []
    env: list[str] = []
    working_dir: str = ""
    user: str = ""


class MachineSpec(msgspec.Struct, kw_only=True, frozen=True):
    """One version of a machine, ready for a driver.

    Attributes:
        start_id: ULID of this start; the same when the step is run again after a crash, so that a driver can
            recognise what it left running.
        argv: the complete argument vector by the OCI and `init` rules; may be empty (nothing to run: exit 125).
        env: the complete environment in its final order, as pairs.
        user: the `init.user` override, else None and the image's user counts.
        rootfs_mb: size of the writable layer in MiB; a full layer is the guest's ENOSPC.
        log_path: where the machine's output goes (CRI log format, rotated).
    """

    machine_id: str
    app: str
    name: str
    version: str
    start_id: str
    image: ImageSpec
    shape: Shape
    hostname: str
    argv: list[str]
    env: list[tuple[str, str]]
    cwd: str
    user: str | None = None
    tty: bool = False
    swap_mb: int = 0
    files: list[FileSpec] = []
    kernel_args: list[str] = []
    network: NetworkSpec | None = None
    nameservers: list[str] = []
    searches: list[str] = []
    dns_options: list[str] = []
    hosts: list[tuple[str, list[str]]] = []
    rootfs_mb: int = 8192
    rootfs_persist: bool = False
    log_path: str = ""
    # For the mock driver: what to do on order, from config.metadata["midge.mock"].
    mock: str = ""


class ExitStatus(msgspec.Struct, kw_only=True, frozen=True):
    """How a machine's main process, or the machine itself, ended.

    Attributes:
        exit_code: of the machine as the host sees it (128+n when a signal ended it).
        guest_exit_code: of the process; None when the guest never reported one.
        guest_signal: the signal that ended the process, -1 for none.
        signal: the signal that ended the VMM or container, -1 for none.
        error: what went wrong where the process could not run or the guest died, else empty.
        exited_at_ns: host wall clock, nanoseconds since 1970.
    """

    exit_code: int
    guest_exit_code: int | None = None
    guest_signal: int = -1
    signal: int = -1
    oom_killed: bool = False
    error: str = ""
    exited_at_ns: int = 0
