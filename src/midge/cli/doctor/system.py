"""Checks of the kernel and its devices."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from midge.cli import text
from midge.doctor.check import Finding, Host, fail, ok, skip, warn
from midge.drivers.qemu import accel

# Free space below which a pull of a usual image may fail, and one that is merely little; in bytes.
DISK_FAIL_BYTES = 2 * 1024**3
DISK_WARN_BYTES = 10 * 1024**3

# A clock before this day cannot be right: nothing of this program existed. Seconds since 1970.
CLOCK_EARLIEST_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()

# Controllers that limit a machine.
CONTROLLERS = ("cpu", "memory", "pids")


def root(host: Host) -> Finding:
    if host.euid == 0:
        return ok("running as root")
    return warn("not running as root: only the mock driver works", "sudo midge serve")


def tun(host: Host) -> Finding:
    return _device(host.path("/dev/net/tun"), "machines get no network", "modprobe tun")


def kvm(host: Host) -> Finding:
    """That the device opens proves nothing; the driver's verdict of a real boot does."""
    slow = "virtual machines run in software emulation"
    device = accel.KVM_DEVICE
    if problem := accel.device_problem(host.path(str(device))):
        return warn(f"{problem.reason}: {slow}", problem.hint)
    verdict = accel.read_verdict(host.path(str(accel.VERDICT_PATH)))
    if verdict is None:
        return skip(f"{device} opens; whether guests boot with it is tried at the first start", "midge serve")
    if verdict.boot_id != host.text("/proc/sys/kernel/random/boot_id").strip():
        return skip(f"{device} opens; it was tried before the last reboot only", "midge serve")
    if verdict.usable:
        return ok(f"usable: {verdict.reason}")
    return warn(f"{device} opens but is not usable ({verdict.reason}): {slow}", verdict.hint)


def cgroups(host: Host) -> Finding:
    unified = host.text("/sys/fs/cgroup/cgroup.controllers").split()
    if unified:
        missing = [name for name in CONTROLLERS if name not in unified]
        if missing:
            return warn(
                f"version 2 without {', '.join(missing)}: machines are not limited in that",
                "boot without cgroup_disable, and delegate the controllers",
            )
        return ok("version 2 with " + ", ".join(CONTROLLERS))
    legacy = [name for name in CONTROLLERS if host.path(f"/sys/fs/cgroup/{name}").is_dir()]
    if not legacy:
        return fail("no control groups are mounted", "mount -t cgroup2 none /sys/fs/cgroup")
    missing = [name for name in CONTROLLERS if name not in legacy]
    if missing:
        return warn(f"version 1 without {', '.join(missing)}", "boot with systemd.unified_cgroup_hierarchy=1")
    return ok("version 1 with " + ", ".join(CONTROLLERS))


def overlayfs(host: Host) -> Finding:
    return _filesystem(host, "overlay", "the container driver cannot mount images")


def erofs(host: Host) -> Finding:
    """Only the guest mounts erofs; here it would help to look into images."""
    found = host.filesystem("erofs")
    if found is False:
        return ok("not in this kernel; only guests need it")
    return ok("in this kernel")


def disk_space(host: Host) -> Finding:
    folder = host.data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    message = f"{text.size(free)} free in {folder}"
    if folder != host.data_dir.absolute():
        message += f", where {host.data_dir} would be"
    if free < DISK_FAIL_BYTES:
        return fail(message, "midge image prune --all, or another --data-dir")
    if free < DISK_WARN_BYTES:
        return warn(message, "midge image prune --all")
    return ok(message)


def clock(host: Host) -> Finding:
    now = time.time()
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if now < CLOCK_EARLIEST_S:
        return fail(f"it is not {shown}: certificates and tokens will be refused", "timedatectl set-ntp true")
    return ok(shown)


def _device(path: Path, without: str, fix: str) -> Finding:
    if not path.exists():
        return fail(f"{path} is missing: {without}", fix)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return warn(f"{path} cannot be opened by this user: {without}", "run as root")
    except OSError as error:
        return fail(f"{path} cannot be opened ({error.strerror}): {without}", fix)
    return ok(f"{path} opens")


def _filesystem(host: Host, name: str, without: str) -> Finding:
    found = host.filesystem(name)
    if found is True:
        return ok("in this kernel")
    if found is None:
        return ok("a module of this kernel, loaded when needed")
    return warn(f"not in this kernel: {without}", f"modprobe {name}")
