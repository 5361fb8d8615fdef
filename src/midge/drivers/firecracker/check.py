"""For `midge doctor`: can this host run Firecracker, and if not, what is missing."""

from __future__ import annotations

from midge.doctor.check import Finding, Host, fail, ok, skip, warn
from midge.drivers.firecracker.usable import VERDICT_PATH
from midge.drivers.firecracker.version import INSTALL_HINT, parse_version, unsupported
from midge.drivers.qemu.accel import KVM_DEVICE, device_problem, read_verdict

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
    if problem := device_problem(host.path(str(KVM_DEVICE))):
        return warn(f"{vmm.text}, but {problem.reason}: {_WITHOUT}", problem.hint)
    return _verdict(host, vmm.text)


def _verdict(host: Host, version: str) -> Finding:
    verdict = read_verdict(host.path(str(VERDICT_PATH)))
    if verdict is None:
        return skip(f"{version}; whether guests boot with it is tried at the first start", "midge serve")
    if verdict.boot_id != host.text("/proc/sys/kernel/random/boot_id").strip():
        return skip(f"{version}; it was tried before the last reboot only", "midge serve")
    if verdict.usable:
        return ok(f"{version}; {verdict.reason}")
    return warn(f"{version}, but {verdict.reason}", f"use the qemu driver; to try again: rm {VERDICT_PATH}")
