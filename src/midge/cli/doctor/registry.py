"""All checks, in the order they are shown. A new one is a function and a row here; names are never reused."""

from __future__ import annotations

from collections.abc import Iterator

from midge.cli.doctor import programs, server, system
from midge.doctor.check import Check, Finding, Host, fail
from midge.drivers.firecracker import check as firecracker

CHECKS: tuple[Check, ...] = (
    Check("root", "drivers need root", system.root),
    Check("kvm", "hardware virtualisation", system.kvm),
    Check("dev-net-tun", "network of virtual machines", system.tun),
    Check("cgroups", "limits of machines", system.cgroups),
    Check("overlayfs", "root filesystems of containers", system.overlayfs),
    Check("erofs", "root filesystems of virtual machines", system.erofs),
    Check("nft", "keeps networks apart", programs.nft),
    Check("qemu", "runs virtual machines", programs.qemu),
    Check(firecracker.NAME, firecracker.ABOUT, firecracker.firecracker),
    Check("runc", "runs containers", programs.runc),
    Check("mkfs-erofs", "makes images bootable", programs.mkfs_erofs),
    Check("midge-binaries", "Midge's own programs", programs.binaries),
    Check("kernel-images", "what guests boot", programs.kernel_images),
    Check("disk-space", "room for images and machines", system.disk_space),
    Check("clock", "certificates and tokens", system.clock),
    Check("server", "the server commands talk to", server.reachable),
    Check("server-token", "is our token good", server.token),
    Check("server-version", "client and server fit", server.versions),
    Check("server-clock", "tokens and certificates", server.skew),
)


def run(host: Host, names: frozenset[str] = frozenset()) -> Iterator[tuple[Check, Finding]]:
    """Runs the checks, or those that are named. What a check did not foresee counts as failed."""
    for check in CHECKS:
        if names and check.name not in names:
            continue
        try:
            yield check, check.run(host)
        except Exception as error:  # one broken check must not hide the others
            yield (
                check,
                fail(f"the check itself failed: {type(error).__name__}: {error}", "report this as a bug"),
            )
