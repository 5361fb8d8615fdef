"""For `midge doctor`: can this host run Firecracker, and if not, what is missing."""

from __future__ import annotations

import json
import os

from midge.cli.doctor.check import Finding, Host, fail, ok, skip, warn
from midge.drivers.firecracker.usable import VERDICT_PATH
from midge.drivers.firecracker.version import INSTALL_HINT, parse_version, unsupported

NAME = "firecracker"
ABOUT = "runs virtual machines in production"
_WITHOUT = "the firecracker driver cannot run"


def firecracker(host: Host) -> Finding:
    """Programs, their versions, the device, and whether a guest has booted since the host did."""
    paths = [host.which(name) for name in ("firecracker", "jailer")]
    missing = [name for name, path in zip(("firecracker", "jailer"), paths, strict=True) if path is None]
    if missing:
        return warn(f"{' and '.join(missing)} not installed: {_WITHOUT}", INSTALL_HINT)
    vmm, jailer = (parse_version(host.version(path or "")) for path in paths)
    if vmm is None or jailer is None:
        return fail(f"firecracker or jailer does not tell its version: {_WITHOUT}", INSTALL_HINT)
    if reason := unsupported(vmm):
        return fail(reason, INSTALL_HINT)
    if vmm.numbers != jailer.numbers:
        return fail(f"firecracker is {vmm.text} and jailer is {jailer.text}", INSTALL_HINT)
    if not os.access(host.path("/dev/kvm"), os.R_OK | os.W_OK):
        return warn(
            f"{vmm.text}, but /dev/kvm is missing or cannot be opened: {_WITHOUT}",
            "enable virtualisation in the firmware, then `modprobe kvm_intel` or `kvm_amd`",
        )
    return _verdict(host, vmm.text)


def _verdict(host: Host, version: str) -> Finding:
    try:
        verdict = json.loads(host.text(str(VERDICT_PATH)))
        usable, reason, boot = bool(verdict["usable"]), str(verdict["reason"]), str(verdict["boot_id"])
    except (ValueError, KeyError, TypeError):
        return skip(f"{version}; whether guests boot with it is tried at the first start", "midge serve")
    if boot != host.text("/proc/sys/kernel/random/boot_id").strip():
        return skip(f"{version}; it was tried before the last reboot only", "midge serve")
    if usable:
        return ok(f"{version}; {reason}")
    return warn(f"{version}, but {reason}", f"use the qemu driver; to try again: rm {VERDICT_PATH}")
