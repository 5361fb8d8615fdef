"""Checks of the programs and files that Midge needs."""

from __future__ import annotations

import json
import os

from midge.doctor.check import Finding, Host, fail, ok, warn

# Midge's own programs and what does not work without them.
OWN = {"midge-init": "no machine can boot", "midge-shim": "no machine can run"}


def nft(host: Host) -> Finding:
    return _program(host, ("nft",), "nftables", "machines are not kept apart", needed=True)


def qemu(host: Host) -> Finding:
    name = f"qemu-system-{os.uname().machine}"
    return _program(host, (name,), "qemu-system-x86", "the qemu driver cannot run", needed=True)


def runc(host: Host) -> Finding:
    return _program(host, ("runc", "crun", "runsc"), "runc", "the container driver cannot run", needed=False)


def mkfs_erofs(host: Host) -> Finding:
    return _program(host, ("mkfs.erofs",), "erofs-utils", "images cannot be made bootable", needed=True)


def binaries(host: Host) -> Finding:
    from midge.binaries import BinaryMissing, find

    missing, fix = [], ""
    for name, without in OWN.items():
        try:
            find(name, host.env)
        except BinaryMissing as error:
            missing.append(f"{name} ({without})")
            fix = error.hint
    if missing:
        return fail("missing: " + ", ".join(missing), fix)
    return ok(", ".join(OWN))


def kernel_images(host: Host) -> Finding:
    """Bases count: they get an init when the server starts. A build in the background is told, too."""
    from midge.kernel import background

    building = background.state(host.data_dir)
    found = sorted(
        {f"{base['flavour']} {base['version']}" for base in _bases(host)},
        key=lambda name: (not name.startswith("trimmed"), name),
    )
    if not found:
        return warn("no guest kernel yet: the first start fetches the distribution's", "midge kernel fetch")
    if not any(name.startswith("trimmed") for name in found):
        if building == "building":
            last = background.last_words(host.data_dir)
            return ok(f"{', '.join(found)}; trimmed kernel: building ({last})")
        if building == "ended":
            text = f"{', '.join(found)}; trimmed kernel: the build ended without one"
            return warn(text, f"see {host.data_dir / background.LOG}")
        return warn(f"{', '.join(found)}; the trimmed one boots several times faster", "midge kernel build")
    return ok(", ".join(found))


def _bases(host: Host) -> list[dict[str, str]]:
    found = []
    for file in (host.kernels_dir / "bases").glob("*/base.json"):
        try:
            fields = json.loads(file.read_text("utf-8"))
            found.append({"flavour": str(fields["flavour"]), "version": str(fields["version"])})
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _program(host: Host, names: tuple[str, ...], package: str, without: str, *, needed: bool) -> Finding:
    path = host.which(*names)
    if path is None:
        message, fix = f"{' or '.join(names)} is missing: {without}", f"apt-get install {package}"
        return fail(message, fix) if needed else warn(message, fix)
    return ok(host.version(path) or path)
