"""Requests that follow from settings, and reaching the init of a restored guest. Pure but for the latter."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from midge.drivers.firecracker import bodies as b
from midge.drivers.firecracker.boot import NETWORK_ID, UPPER
from midge.drivers.firecracker.jail import VSOCK_SOCKET
from midge.drivers.firecracker.settings import FirecrackerSettings, IoLimits, Limit
from midge.drivers.firecracker.version import Version
from midge.errors import DeadlineExceeded, SnapshotUnusable
from midge.guest import messages as m
from midge.guest.channel import GuestChannel

# A greeting is repeated after this long: a restored guest drops the connection it had, and one that was made just
# before it does so along with it (Firecracker's pull request 5688).
GREETING_S = 0.5
VSOCK_PATH = f"/run/{VSOCK_SOCKET}"


def load_request(
    version: Version, *, tap: str, snapshot: dict[str, Any] | None = None, track_dirty_pages: bool
) -> b.SnapshotLoadParams:
    """The request that restores a guest and lets it run.

    Args:
        tap: the interface it is to have.
        snapshot: what a suspended machine's snapshot says it had, as `device_names` gave it.

    Raises:
        SnapshotUnusable: the snapshot needs what this Firecracker cannot do.
    """
    had = snapshot or device_names(tap)
    network, vsock = None, None
    if had["tap"] != tap:
        if not version.network_overrides:
            raise SnapshotUnusable(
                f"the snapshot was made with interface {had['tap']}", hint="firecracker 1.12 can rename it"
            )
        network = (b.NetworkOverride(iface_id=NETWORK_ID, host_dev_name=tap),)
    if had["vsock"] != VSOCK_PATH:
        if not version.vsock_override:
            raise SnapshotUnusable(
                f"the snapshot was made with socket {had['vsock']}", hint="firecracker 1.16 can move it"
            )
        vsock = b.VsockOverride(uds_path=VSOCK_PATH)
    return b.SnapshotLoadParams(
        snapshot_path="/state",
        mem_backend=b.MemoryBackend(backend_type="File", backend_path="/memory"),
        resume_vm=True,
        enable_diff_snapshots=track_dirty_pages,
        network_overrides=network,
        vsock_override=vsock,
    )


def device_names(tap: str) -> dict[str, Any]:
    """What a snapshot remembers of the host by name."""
    return {"tap": tap, "vsock": VSOCK_PATH}


def limit_requests(settings: FirecrackerSettings) -> list[b.Body]:
    """What makes the limits of the settings hold for a running guest; empty without limits."""
    requests: list[b.Body] = []
    if settings.drive_limits is not None:
        requests.append(b.PartialDrive(drive_id=UPPER, rate_limiter=_limiter(settings.drive_limits)))
    if settings.rx_limits is not None or settings.tx_limits is not None:
        requests.append(
            b.PartialNetworkInterface(
                iface_id=NETWORK_ID,
                rx_rate_limiter=_limiter(settings.rx_limits) if settings.rx_limits else None,
                tx_rate_limiter=_limiter(settings.tx_limits) if settings.tx_limits else None,
            )
        )
    return requests


def _limiter(limits: IoLimits) -> b.RateLimiter:
    return b.RateLimiter(bandwidth=_bucket(limits.bandwidth), ops=_bucket(limits.operations))


def _bucket(limit: Limit | None) -> b.TokenBucket | None:
    return b.TokenBucket(size=limit.size, refill_time=limit.refill_ms) if limit else None


async def greet(channel: GuestChannel, timeout_s: float, *, resume: bool = False) -> m.HelloAck:
    """A session with a guest that has just been restored; with `resume` it is told next that it was away.

    Raises:
        TimeoutError: it does not answer.
        ChannelLost: the VMM has ended.
    """
    async with asyncio.timeout(timeout_s):
        while True:
            with contextlib.suppress(DeadlineExceeded):
                return await channel.hello(resume=resume, timeout_s=GREETING_S)
