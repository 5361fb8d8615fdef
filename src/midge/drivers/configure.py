"""From a machine's specification to what its init is told. Pure but for the entropy and the time it is handed."""

from __future__ import annotations

import hashlib

from midge.guest import messages as m
from midge.guest.files import GuestFile
from midge.machine.spec import MachineSpec

ENTROPY_BYTES = 64


def guest_machine_id(machine_id: str) -> str:
    """/etc/machine-id: 32 hex digits that stay the same over a machine's life and are no other machine's."""
    return hashlib.sha256(b"midge machine-id " + machine_id.encode()).hexdigest()[:32]


def configure(
    spec: MachineSpec,
    *,
    entropy: bytes,
    wall_clock_ns: int,
    root: m.Root | None,
    net: m.Net | None,
    nameservers: tuple[str, ...],
    container: bool = False,
) -> m.Configure:
    """The CONFIGURE message of one start.

    Args:
        root: the disks to build the root from; None where the root is in place (container).
        nameservers: the host's, used where the machine names none of its own.
    """
    return m.Configure(
        start_id=spec.start_id,
        mode="container" if container else "vm",
        wall_clock_ns=wall_clock_ns,
        entropy=entropy,
        hostname=spec.hostname,
        machine_id=guest_machine_id(spec.machine_id),
        argv=tuple(spec.argv),
        env=tuple(spec.env),
        root=root,
        swap_mb=spec.swap_mb,
        net=net,
        hosts=tuple(m.Host(ip=ip, names=tuple(names)) for ip, names in spec.hosts),
        resolv=m.Resolv(
            nameservers=tuple(spec.nameservers) or nameservers,
            searches=tuple(spec.searches),
            options=tuple(spec.dns_options),
        ),
        image_user=spec.image.user or None,
        user=spec.user,
        cwd=spec.cwd,
        tty=spec.tty,
    )


def guest_files(spec: MachineSpec) -> tuple[GuestFile, ...]:
    return tuple(GuestFile(path=file.path, content=file.data, mode=file.mode) for file in spec.files)
