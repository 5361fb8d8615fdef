"""Puts a worker together from settings: stores, network, driver, tasks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal

import structlog

from midge.cgroup import CgroupTree
from midge.clock import Clock, SystemClock
from midge.drivers.base import Driver
from midge.drivers.mock import MockDriver
from midge.drivers.pool_settings import ParkedSettings, PoolSettings
from midge.errors import Conflict, NotSupported
from midge.images.store import ImageStore, RegistryConfig
from midge.net.config import NetConfig
from midge.net.naming import instance_tag
from midge.net.pool import NetPool
from midge.net.resolver import Nameservers, nobody
from midge.net.slot import SlotKind
from midge.operations.engine import Engine
from midge.store.sqlite import Database
from midge.worker.catalog import Catalog
from midge.worker.local import LocalHost
from midge.worker.parts import Parts, RunJournal, Settings
from midge.worker.running import running
from midge.worker.store_images import StoreImages
from midge.worker.worker import Worker

MIGRATIONS = Path(__file__).parents[1] / "store" / "migrations" / "host"
DriverName = Literal["auto", "firecracker", "qemu", "container", "mock"]
KernelFlavour = Literal["auto", "debian", "trimmed", "custom"]

# For ``auto``: little used by anybody, and enough for as many Midges on one host (developers, tests) as it can hold.
SUBNETS = tuple(IPv4Network(f"10.{second}.0.0/16") for second in range(61, 93))

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
        subnet: addresses of the machines; ``auto`` takes the first of SUBNETS that the host does not use, and keeps it.
        rootfs_mb: size of a machine's writable layer.
        memory_total_mb: what machines may use in all, MiB; None: what the host has.
        warm: the pool of warm slots (qemu, container).
        parked: bounds of the VMs that suspended machines leave standing (qemu).
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
    subnet: str = "auto"
    memory_total_mb: int | None = None
    warm: PoolSettings = field(default_factory=PoolSettings)
    parked: ParkedSettings = field(default_factory=ParkedSettings)
    rootfs_mb: int = 8192
    memory_overcommit: float = 1.5
    destroyed_kept_s: float = 600.0
    nameservers: Nameservers = nobody
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
        driver, subnet = await _driver(settings, images, clock, stack)
        parts = Parts(
            settings=Settings(
                host_name=settings.host_name,
                region=settings.region,
                memory_total_mb=_memory_mb(settings),
                memory_overcommit=settings.memory_overcommit,
                destroyed_kept_s=settings.destroyed_kept_s,
                subnet=str(subnet),
                logs_dir=settings.data_dir / "logs",
            ),
            clock=clock,
            database=database,
            catalog=Catalog(clock),
            driver=driver,
            images=StoreImages(images),
            engine=Engine(RunJournal(database)),
        )
        worker = Worker(parts)
        async with running(worker):
            yield LocalHost(worker), images


async def _driver(
    settings: HostSettings, images: ImageStore, clock: Clock, stack: contextlib.AsyncExitStack
) -> tuple[Driver, IPv4Network]:
    if settings.driver == "mock":
        subnet = SUBNETS[0] if settings.subnet == "auto" else IPv4Network(settings.subnet)
        return MockDriver(settings.run_dir / "mock", clock), subnet
    if os.geteuid() != 0:
        raise NotSupported(
            f"the {settings.driver} driver needs root: it makes network namespaces, mounts and control groups",
            hint="run as root, or use --driver mock",
        )
    tag = instance_tag(settings.data_dir)
    kind: SlotKind = "veth" if settings.driver == "container" else "tap"
    net = await _network(settings, tag, kind, stack)
    cgroups = CgroupTree(parent=f"midge-{tag}")
    cgroups.open()
    stack.callback(cgroups.close)
    if settings.driver in ("auto", "firecracker"):
        driver = _firecracker(settings, images, net, cgroups)
        if settings.driver == "firecracker" or await _is_usable(driver):
            return driver, net.config.pool
    make = _container if settings.driver == "container" else _qemu
    return make(settings, images, net, cgroups), net.config.pool


async def _is_usable(driver: Driver) -> bool:
    """Opens it to find out; opening it once more costs nothing."""
    try:
        await driver.open()
    except NotSupported as error:
        _log.info("firecracker is not used", why=str(error), hint=error.hint)
        return False
    return True


async def _network(
    settings: HostSettings, tag: str, kind: SlotKind, stack: contextlib.AsyncExitStack
) -> NetPool:
    """The pool of network slots, on the configured subnet or on one that is free and stays ours."""
    remembered = settings.data_dir / "subnet"
    if settings.subnet != "auto":
        candidates = [IPv4Network(settings.subnet)]
    elif remembered.exists():
        candidates = [IPv4Network(remembered.read_text().strip())]
    else:
        candidates = list(SUBNETS)
    for candidate in candidates:
        net = NetPool(NetConfig(tag=tag, pool=candidate, free_low={kind: 4}, free_high={kind: 8}))
        try:
            await stack.enter_async_context(net)
        except Conflict:
            if candidate == candidates[-1]:
                raise
            continue
        remembered.write_text(f"{candidate}\n")
        return net
    raise AssertionError("there is at least one candidate")


def _firecracker(settings: HostSettings, images: ImageStore, net: NetPool, cgroups: CgroupTree) -> Driver:
    from midge.drivers.firecracker.driver import FirecrackerDriver
    from midge.drivers.firecracker.settings import FirecrackerSettings

    # Apart from the qemu driver's: which one is taken may change, and each sweeps what is its own.
    data = settings.data_dir / "firecracker"
    return FirecrackerDriver(
        FirecrackerSettings(
            rundir=settings.run_dir / "f",
            jails=data / "jails",
            machines=data / "machines",
            templates=data / "templates",
            snapshots=data / "snapshots",
            kernels=settings.kernels_dir,
            blanks=settings.data_dir / "blanks",
            key_file=settings.data_dir / "seal.key",
            kernel_flavour=settings.kernel,
            rootfs_mb=settings.rootfs_mb,
            nameservers=settings.nameservers,
        ),
        images=images,
        net=net,
        cgroups=cgroups,
    )


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
            pool=settings.warm,
            parked=settings.parked,
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
            layers=settings.data_dir / "layers",
            machines=settings.data_dir / "machines",
            runtime=settings.runtime,
            nameservers=settings.nameservers,
            pool=settings.warm,
        ),
        images=images,
        net=net,
        cgroups=cgroups,
    )


def _memory_mb(settings: HostSettings) -> int | None:
    if settings.driver == "mock":
        return settings.memory_total_mb
    return settings.memory_total_mb or memory_total_mb()


def memory_total_mb() -> int:
    """Of the host, MiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    raise NotSupported("/proc/meminfo does not say how much memory there is")
