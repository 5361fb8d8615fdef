"""Does hardware virtualisation work here? Only a real boot tells, and the answer holds until the host restarts.

On a paravirtual KVM the device opens, VMs can be created and real-mode code runs, and a stock 64-bit kernel then spins
for ever. So: boot the very kernel and init that machines get, under a deadline, once per boot of the host.

Three things are told apart, since each has another remedy: there is no device; there is no permission to use it (asked
again at each start of the server, since it can be given at any time); the guest does not boot with it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from midge.drivers.qemu.command import Acceleration
from midge.drivers.shim import DeviceRefused
from midge.errors import MidgeError, NotSupported, chain

KVM_DEVICE = Path("/dev/kvm")
PROBE_TIMEOUT_S = 8.0  # a working KVM boots in well under one; a spinning guest burns a core that long
VERDICT_PATH = Path("/run/midge/kvm.json")
NO_DEVICE_HINT = "enable virtualisation in the firmware, then `modprobe kvm_intel` or `kvm_amd`"
USER_DENIED_HINT = "run as root"
ROOT_DENIED_HINT = "allow the device where this runs; for a container: --device /dev/kvm"
DOES_NOT_BOOT_HINT = (
    f"use a host with hardware virtualisation; to try again before the next restart: rm {VERDICT_PATH}"
)
# `max` needs no page-table isolation, whose address-space switches flush the emulator's TLB. Without ERMS the guest's
# kernel clears pages by quadwords; `rep stosb` is emulated byte by byte (page fault 18 µs with it, 9 µs without).
CPU_MODELS: dict[Acceleration, str] = {"kvm": "host", "tcg": "max,-erms,-fsrm"}

_log = structlog.get_logger("midge.qemu")


Outcome = Literal["boots", "does-not-boot", "no-permission"]


class Verdict(msgspec.Struct, kw_only=True, frozen=True):
    """What a probe found in this boot of the host with this guest kernel, and why.

    Attributes:
        outcome: what a boot has shown holds until the host restarts; a permission can be given at any time.
        hint: what to do about it, if it does not boot.
    """

    boot_id: str
    kernel: str
    outcome: Outcome
    reason: str
    hint: str = ""

    @property
    def usable(self) -> bool:
        return self.outcome == "boots"


@dataclass(frozen=True, slots=True)
class DeviceProblem:
    """Why the device cannot even be opened: ``no-device`` (or nothing behind its node), or ``no-permission``."""

    kind: Literal["no-device", "no-permission"]
    reason: str
    hint: str


def device_problem(device: Path | None = None) -> DeviceProblem | None:
    """What keeps this process from opening the device (KVM_DEVICE without); None if it opens."""
    device = device or KVM_DEVICE
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return DeviceProblem("no-device", f"there is no {device}", NO_DEVICE_HINT)
    except PermissionError:
        hint = ROOT_DENIED_HINT if os.geteuid() == 0 else USER_DENIED_HINT
        return DeviceProblem("no-permission", f"no permission to open {device}", hint)
    except OSError as error:
        return DeviceProblem("no-device", f"{device} does not open: {error.strerror}", NO_DEVICE_HINT)
    return None


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_verdict(path: Path = VERDICT_PATH) -> Verdict | None:
    """What the last probe found, whether it still holds or not."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Verdict)
    except (OSError, msgspec.DecodeError):
        return None


def remembered(kernel: str, path: Path = VERDICT_PATH) -> Verdict | None:
    """What an earlier boot has shown, if it still holds. One without permission has shown nothing."""
    verdict = read_verdict(path)
    if verdict is None or verdict.outcome == "no-permission":
        return None
    return verdict if verdict.boot_id == boot_id() and verdict.kernel == kernel else None


def remember(verdict: Verdict, path: Path = VERDICT_PATH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(msgspec.json.encode(verdict))
    fresh.rename(path)


async def choose(
    wish: str, kernel: str, probe: Callable[[], Awaitable[None]], path: Path = VERDICT_PATH
) -> tuple[Acceleration, str]:
    """KVM if it really boots, else software emulation, and the reason.

    Args:
        wish: ``auto``; ``kvm`` to have nothing else; ``tcg`` to skip the question.
        probe: boots the guest kernel under KVM; raises if it does not come up in PROBE_TIMEOUT_S, and
            `DeviceRefused` if the VMM cannot have the device.

    Raises:
        NotSupported: ``kvm`` is wished for and does not boot.
    """
    if wish == "tcg":
        return "tcg", "configured"
    found = device_problem() or await _verdict(kernel, probe, path)
    if isinstance(found, Verdict) and found.usable:
        return "kvm", found.reason
    if wish == "kvm":
        raise NotSupported(
            f"hardware virtualisation is configured and does not work here: {found.reason}",
            hint=f"{found.hint}; or set acceleration to auto, or to tcg for software emulation",
        )
    _log.warning("machines run in software emulation", reason=found.reason, hint=found.hint)
    return "tcg", found.reason


async def _verdict(kernel: str, probe: Callable[[], Awaitable[None]], path: Path) -> Verdict:
    verdict = remembered(kernel, path)
    if verdict is None:
        verdict = await _probe(kernel, probe)
        remember(verdict, path)  # also one that will not be believed: doctor shows it
    return verdict


async def _probe(kernel: str, probe: Callable[[], Awaitable[None]]) -> Verdict:
    _log.info("probing KVM by a real boot", timeout_s=PROBE_TIMEOUT_S)
    outcome: Outcome
    try:
        await probe()
    except DeviceRefused as error:
        outcome, hint = "no-permission", error.hint
        reason = f"no permission to give a VMM {KVM_DEVICE}: {chain(error)}"
    except (MidgeError, OSError) as error:
        outcome, hint = "does-not-boot", DOES_NOT_BOOT_HINT
        reason = f"the guest kernel did not boot under KVM: {chain(error)}"
    else:
        outcome, reason, hint = "boots", "the guest kernel booted", ""
    return Verdict(boot_id=boot_id(), kernel=kernel, outcome=outcome, reason=reason, hint=hint)
