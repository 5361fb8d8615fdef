"""Puts a worker together from settings: stores, network, driver, tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal

import structlog

from midge.cgroup import CgroupTree
from midge.clock import Clock, SystemClock
from midge.drivers.base import Driver
from midge.drivers.mock import MockDriver
from midge.errors import NotSupported
from midge.images.store import ImageStore, RegistryConfig
from midge.net.config import NetConfig
from midge.net.naming import instance_tag
from midge.net.pool import NetPool
from midge.operations.engine import Engine
from midge.store.sqlite import Database
from midge.worker.catalog import Catalog
from midge.worker.local import LocalHost
from midge.worker.parts import Images, Parts, RunJournal, Settings
from midge.worker.store_images import StoreImages
from midge.worker.worker import Worker

MIGRATIONS = Path(__file__).parents[1] / "store" / "migrations" / "host"
DriverName = Literal["auto", "qemu", "container", "mock"]
KernelFlavour = Literal["auto", "debian", "trimmed", "custom"]

_log = structlog.get_logger("midge.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What `midge serve` knows about its host.

    Attributes:
        data_dir: everything that is kept.
        run_dir: sockets and small files of running machines; a short path (unix sockets are limited to 107 bytes).
        memory_dir: on a tmpfs, memory of running virtual machines.
        kernels_dir: guest kernels; may be shared by several data directories.
        driver: ``auto`` takes qemu, and never a weaker isolation.
        runtime: the OCI runtime of the container driver.
        acceleration: of the qemu driver.
        subnet: addresses of the machines.
        rootfs_mb: size of a machine's writable layer.
        memory_overcommit: see `midge.worker.parts.Settings`.
    """

    data_dir: Path
    run_dir: Path
    memory_dir: Path
    kernels_dir: Path
    host_name: str = "local"
    region: str = "local"
    driver: DriverName = "auto"
    runtime: str = "runc"
    kernel: KernelFlavour = "auto"
    acceleration: Literal["auto", "kvm", "tcg"] = "auto"
    subnet: str = "10.61.0.0/16"
    rootfs_mb: int = 8192
    memory_overcommit: float = 1.5
    destroyed_kept_s: float = 600.0
    nameservers: tuple[str, ...] = ()
    registry: RegistryConfig | None = None


@contextlib.asynccontextmanager
async def open_host(
    settings: HostSettings, clock: Clock | None = None
) -> AsyncIterator[tuple[LocalHost, ImageStore]]:
    """A host with its worker running; machines run on afterwards.

    Raises:
        NotSupported: the host cannot run the driver; the hint says what is missing.
    """
    clock = clock or SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        database = Database(settings.data_dir / "host.db", MIGRATIONS)
        await database.open()
        stack.push_async_callback(database.aclose)
        images = await stack.enter_async_context(
            ImageStore(settings.data_dir / "images", registry=settings.registry)
        )
        driver = await _driver(settings, images, clock, stack)
        parts = Parts(
            settings=Settings(
                host_name=settings.host_name,
                region=settings.region,
                memory_total_mb=None if settings.driver == "mock" else memory_total_mb(),
                memory_overcommit=settings.memory_overcommit,
                destroyed_kept_s=settings.destroyed_kept_s,
                subnet=settings.subnet,
                logs_dir=settings.data_dir / "logs",
            ),
            clock=clock,
            database=database,
            catalog=Catalog(clock),
            driver=driver,
            images=_images(settings, images),
            engine=Engine(RunJournal(database)),
        )
        worker = Worker(parts)
        async with running(worker):
            yield LocalHost(worker), images


@contextlib.asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    """The worker's task, recovered; an error that ends it is raised here."""
    task = asyncio.create_task(worker.run(), name="worker")
    ready = asyncio.create_task(worker.ready.wait(), name="worker ready")
    try:
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield
    finally:
        for one in (ready, task):
            one.cancel()
        await asyncio.wait([ready, task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def _images(settings: HostSettings, store: ImageStore) -> Images:
    return StoreImages(store)


async def _driver(
    settings: HostSettings, images: ImageStore, clock: Clock, stack: contextlib.AsyncExitStack
) -> Driver:
    if settings.driver == "mock":
        return MockDriver(settings.run_dir / "mock", clock)
    if os.geteuid() != 0:
        raise NotSupported(
            f"the {settings.driver} driver needs root: it makes network namespaces, mounts and control groups",
            hint="run as root, or use --driver mock",
        )
    tag = instance_tag(settings.data_dir)
    kind: Literal["tap", "veth"] = "veth" if settings.driver == "container" else "tap"
    net = NetPool(
        NetConfig(tag=tag, pool=IPv4Network(settings.subnet), free_low={kind: 4}, free_high={kind: 8})
    )
    await stack.enter_async_context(net)
    cgroups = CgroupTree(parent=f"midge-{tag}")
    cgroups.open()
    stack.callback(cgroups.close)
    if settings.driver == "container":
        return _container(settings, images, net, cgroups)
    return _qemu(settings, images, net, cgroups)


def _qemu(settings: HostSettings, images: ImageStore, net: NetPool, cgroups: CgroupTree) -> Driver:
    from midge.drivers.qemu.driver import QemuDriver
    from midge.drivers.qemu.settings import QemuSettings

    data = settings.data_dir
    return QemuDriver(
        QemuSettings(
            rundir=settings.run_dir / "m",
            memory_dir=settings.memory_dir,
            layers=data / "layers",
            machines=data / "machines",
            seal_key=data / "seal.key",
            templates=data / "templates",
            kernels=settings.kernels_dir,
            blanks=data / "blanks",
            kernel_flavour=settings.kernel,
            acceleration=settings.acceleration,
            rootfs_mb=settings.rootfs_mb,
            nameservers=settings.nameservers,
        ),
        images=images,
        net=net,
        cgroups=cgroups,
    )


def _container(settings: HostSettings, images: ImageStore, net: NetPool, cgroups: CgroupTree) -> Driver:
    from midge.drivers.container.driver import ContainerDriver
    from midge.drivers.container.settings import ContainerSettings

    return ContainerDriver(
        ContainerSettings(
            rundir=settings.run_dir / "m",
            machines=settings.data_dir / "machines",
            runtime=settings.runtime,
            nameservers=settings.nameservers,
        ),
        images=images,
        net=net,
        cgroups=cgroups,
    )


def memory_total_mb() -> int:
    """Of the host, MiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    raise NotSupported("/proc/meminfo does not say how much memory there is")
