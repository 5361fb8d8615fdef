"""The worker that `midge serve` opens: the server's settings in the worker's terms."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from midge.drivers.pool_settings import ParkedSettings, PoolSettings
from midge.kernel.store import default_root
from midge.net import resolver
from midge.net.naming import instance_tag
from midge.server.assembly import OpenHost
from midge.server.paths import Paths
from midge.server.settings import Settings
from midge.worker.build import HostSettings, open_host

# Memory of running virtual machines belongs on a tmpfs: on a disk the kernel would write it back all the time.
TMPFS = Path("/dev/shm")


@asynccontextmanager
async def open_local_host(settings: Settings, paths: Paths) -> AsyncIterator[OpenHost]:
    """See `midge.worker.build.open_host`, also for what it raises."""
    async with open_host(host_settings(settings, paths)) as (host, images):
        yield OpenHost(host=host, images=images)


def host_settings(settings: Settings, paths: Paths) -> HostSettings:
    """What the worker is to know of the server's settings."""
    return HostSettings(
        data_dir=paths.data_dir,
        run_dir=paths.run_dir,
        memory_dir=_memory_dir(paths),
        kernels_dir=kernels_directory(settings),
        host_name=settings.host_name or socket.gethostname(),
        region=settings.region,
        driver=settings.driver,
        runtime=settings.runtime,
        kernel=settings.kernel,
        acceleration=settings.acceleration,
        rootfs_mb=settings.rootfs_mb,
        subnet=settings.subnet,
        nameservers=resolver.named(settings.nameservers),
        memory_total_mb=settings.memory_total_mb or None,
        memory_overcommit=settings.memory_overcommit,
        warm=PoolSettings(slots_max=settings.warm_slots, memory_mb=settings.warm_memory_mb),
        parked=ParkedSettings(
            vms_max=settings.parked_max, memory_mb=settings.parked_memory_mb, age_s=settings.parked_s
        ),
        destroyed_kept_s=settings.destroyed_kept_s,
    )


def kernels_directory(settings: Settings) -> Path:
    """Where this host's guest kernels are; shared, since they are kept by content and take minutes to build."""
    return Path(settings.kernels_dir) if settings.kernels_dir else default_root()


def _memory_dir(paths: Paths) -> Path:
    if TMPFS.is_dir():
        return TMPFS / f"midge-{instance_tag(paths.data_dir)}"
    return paths.run_dir / "memory"
