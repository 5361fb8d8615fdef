"""Does hardware virtualisation work here? Only a real boot tells, and the answer holds until the host restarts.

On a paravirtual KVM the device opens, VMs can be created and real-mode code runs, and a stock 64-bit kernel then spins
for ever. So: boot the very kernel and init that machines get, under a deadline, once per boot of the host.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from midge.drivers.qemu.command import Acceleration
from midge.errors import MidgeError, NotSupported, chain

KVM_DEVICE = Path("/dev/kvm")
PROBE_TIMEOUT_S = 8.0  # a working KVM boots in well under one; a spinning guest burns a core that long
VERDICT_PATH = Path("/run/midge/kvm.json")
# `max` needs no page-table isolation, whose address-space switches flush the emulator's TLB. Without ERMS the guest's
# kernel clears pages by quadwords; `rep stosb` is emulated byte by byte (page fault 18 µs with it, 9 µs without).
CPU_MODELS: dict[Acceleration, str] = {"kvm": "host", "tcg": "max,-erms,-fsrm"}

_log = structlog.get_logger("midge.qemu")


class Verdict(msgspec.Struct, kw_only=True, frozen=True):
    """`usable` for this boot of the host and this guest kernel, and why."""

    boot_id: str
    kernel: str
    usable: bool
    reason: str


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def remembered(kernel: str, path: Path = VERDICT_PATH) -> Verdict | None:
    """The verdict of an earlier probe, if it still holds."""
    try:
        verdict = msgspec.json.decode(path.read_bytes(), type=Verdict)
    except (OSError, msgspec.DecodeError):
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
        probe: boots the guest kernel under KVM; raises if it does not come up in PROBE_TIMEOUT_S.

    Raises:
        NotSupported: ``kvm`` is wished for and does not boot.
    """
    if wish == "tcg":
        return "tcg", "configured"
    usable, reason = await _usable(kernel, probe, path)
    if wish == "kvm" and not usable:
        raise NotSupported(
            f"hardware virtualisation is configured and does not work here: {reason}",
            hint="set acceleration to auto, or to tcg for software emulation; `midge doctor` says more",
        )
    return ("kvm" if usable else "tcg"), reason


async def _usable(kernel: str, probe: Callable[[], Awaitable[None]], path: Path) -> tuple[bool, str]:
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return False, f"{KVM_DEVICE} is missing or cannot be opened"
    verdict = remembered(kernel, path)
    if verdict is None:
        verdict = await _probe(kernel, probe)
        remember(verdict, path)
    return verdict.usable, verdict.reason


async def _probe(kernel: str, probe: Callable[[], Awaitable[None]]) -> Verdict:
    _log.info("probing KVM by a real boot", timeout_s=PROBE_TIMEOUT_S)
    try:
        await probe()
    except (MidgeError, OSError) as error:
        reason = f"the guest kernel did not boot under KVM: {chain(error)}"
        return Verdict(boot_id=boot_id(), kernel=kernel, usable=False, reason=reason)
    return Verdict(boot_id=boot_id(), kernel=kernel, usable=True, reason="the guest kernel booted")
