"""A driver of each kind on temporary directories, with an image, behind one face for the tests.

What a machine runs is a `Program`: a shell script for drivers that run programs, an order for the mock.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from midge import binaries
from midge.cgroup import CgroupTree
from midge.drivers.base import Driver, ExecExit, ExecRequest, Handle
from midge.drivers.container import ContainerDriver, ContainerSettings
from midge.drivers.container.supply import Container, SlotKey
from midge.drivers.firecracker.driver import FirecrackerDriver
from midge.drivers.firecracker.settings import FirecrackerSettings
from midge.drivers.mock import MockDriver
from midge.drivers.pool_settings import ParkedSettings, PoolSettings
from midge.drivers.qemu.driver import QemuDriver
from midge.drivers.qemu.settings import QemuSettings
from midge.drivers.warm import WarmPool
from midge.errors import NotSupported
from midge.images.store import ImageStore
from midge.kernel.store import default_root
from midge.machine.spec import ExitStatus, ImageSpec, MachineSpec, NetworkSpec, Shape
from midge.net.config import NetConfig
from midge.net.naming import machine_mac
from midge.net.pool import NetPool
from midge.net.slot import SlotKind
from midge.sys.leaks import HostState, diff, snapshot
from midge.testing.images import busybox_image
from tests.subnets import fresh_subnet

DEADLINE_S = 60.0  # for anything that is waited for; emulated guests on a busy host are slow
PREPARE_DEADLINE_S = 120.0  # the first machine of its kind has a kernel booted for its template
LOOK_S = 0.01  # between two looks
_TAG = "midge/contract:latest"


@dataclass(frozen=True, slots=True)
class Program:
    """What a machine does. `script` is run by /bin/sh -c, `mock` is an order for the mock driver."""

    script: str
    mock: dict[str, Any] = field(default_factory=dict)


def exits(code: int = 0, *, output: str = "") -> Program:
    """Ends by itself, after writing."""
    order = {"exit_after_ms": 0, "exit_code": code, "output": output}
    return Program(f"printf '%s' '{output}'; exit {code}", order)


RUNS = Program(
    "trap 'exit 0' INT TERM; echo begun; while :; do sleep 1000 & wait $!; done", {"output": "begun"}
)
STUBBORN = Program(
    "trap '' INT TERM; echo begun; while :; do sleep 1000; done", {"ignore_signals": True, "output": "begun"}
)


class Marks:
    """A trace that is looked at."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def mark(self, phase: str, ago_s: float = 0.0) -> None:
        assert ago_s >= 0
        self.phases.append(phase)


class Kit:
    """A driver under test.

    Attributes:
        driver: the current one; `renew` replaces it, as a restart of the worker does.
        net: where its network slots come from; outlives the driver here, other than at a restart.
        real: whether machines run programs.
    """

    def __init__(
        self,
        home: Path,
        image: ImageSpec,
        make: Callable[..., Driver],
        *,
        marker: str,
        subnet: IPv4Network,
        net: NetPool | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.home = home
        self.image = image
        self.net = net
        self.parts = parts
        self.driver = make()
        self.real = self.driver.name != "mock"
        self._make = make
        self._marker = marker
        self._subnet = subnet
        self._machines: list[str] = []
        self._starts = 0

    def spec(
        self, program: Program | None = None, machine: str = "", *, start_id: str = "", **changes: Any
    ) -> MachineSpec:
        """A machine's specification for a new start; `changes` are fields of `MachineSpec`."""
        self._starts += 1
        machine = machine or f"machine{self._starts}"
        if machine not in self._machines:
            self._machines.append(machine)
        log = self.home / "logs" / machine / "output.log"
        log.parent.mkdir(parents=True, exist_ok=True)  # the worker's to make
        ip = self._subnet[10 + self._machines.index(machine)]
        base = MachineSpec(
            machine_id=machine,
            app="app",
            name=machine,
            version="01",
            start_id=start_id or f"start{self._starts}",
            image=self.image,
            shape=Shape(),
            hostname=machine,
            argv=["/bin/sh", "-c", program.script] if program else [],
            env=[("PATH", "/usr/bin:/bin")],
            cwd="/",
            network=NetworkSpec(ipv4=str(ip), mac=machine_mac(ip)),
            log_path=str(log),
            mock=msgspec.json.encode(program.mock).decode() if program else "",
        )
        return msgspec.structs.replace(base, **changes)

    def again(self, spec: MachineSpec) -> MachineSpec:
        """The same machine, started once more."""
        self._starts += 1
        return msgspec.structs.replace(spec, start_id=f"start{self._starts}")

    async def start(self, spec: MachineSpec) -> Handle:
        async with asyncio.timeout(PREPARE_DEADLINE_S):
            await self.driver.prepare(spec)
        async with asyncio.timeout(DEADLINE_S):
            return await self.driver.start(spec, Marks())

    async def wait(self, handle: Handle) -> ExitStatus:
        async with asyncio.timeout(DEADLINE_S):
            return await self.driver.wait(handle)

    async def run(self, spec: MachineSpec) -> tuple[ExitStatus, str]:
        """Starts a machine, waits for its end; its exit and what is in its log by then."""
        status = await self.wait(await self.start(spec))
        return status, self.log(spec)

    async def begun(self, spec: MachineSpec, word: str = "begun") -> None:
        """Waits until the machine has written the word."""
        await eventually(lambda: word in self.log(spec), f"{word!r} in the log of {spec.machine_id}")

    async def exec(
        self, handle: Handle, *argv: str, stdin: bytes = b"", **more: Any
    ) -> tuple[bytes, ExecExit]:
        """Runs a command to its end; standard output and error together, and its exit."""
        output = bytearray()
        request = ExecRequest(argv=list(argv), stdin=bool(stdin), **more)
        async with asyncio.timeout(DEADLINE_S), self.driver.exec(handle, request) as session:
            if stdin:
                await session.write_stdin(stdin)
                await session.close_stdin()
            async for _, data in session.output():
                output += data
            return bytes(output), await session.wait()

    def log(self, spec: MachineSpec, stream: str = "") -> str:
        """What the machine has written, without times; of one stream or of both."""
        text = ""
        try:
            whole, _, _ = Path(spec.log_path).read_text().rpartition("\n")  # the rest is just being written
        except FileNotFoundError:
            return ""
        for line in whole.splitlines():
            _, name, tag, *content = line.split(" ", 3)
            if stream in ("", name):
                text += "".join(content) + ("\n" if tag == "F" else "")
        return text

    def new_driver(self) -> Driver:
        """Another driver object on the same state, not open yet."""
        return self._make()

    async def renew(self) -> None:
        """The worker ends, and another one begins."""
        await self.driver.aclose()
        self.driver = self._make()
        await self.driver.open()

    async def reconfigure(self, **changes: Any) -> None:
        """The same with other settings of the driver; they stay until the next call."""
        self._make = functools.partial(self._make, **changes)
        await self.renew()

    def picture(self) -> HostState:
        """What is on the host of this driver; logs stay after a machine, and so does what `prepare` made."""
        _reap_zombies()
        kept = {self.home / "logs", self.home / "images", self.home / "templates", self.home / "blanks"}
        folders = [path for path in self.home.iterdir() if path not in kept]
        return snapshot([self._marker, str(self.home)], folders)

    async def assert_nothing_left_since(self, before: HostState) -> None:
        """Whatever goes by itself (a namespace that is destroyed in the background) may take a moment."""
        await eventually(
            lambda: diff(before, self.picture()) == [], lambda: f"left: {diff(before, self.picture())}"
        )

    async def end(self) -> None:
        for machine in self._machines:
            await self.driver.destroy(machine)
        await self.driver.aclose()


class WarmKit(Kit):
    """Containers that wait: each start of `start` finds one."""

    @property
    def pool(self) -> WarmPool[SlotKey, Container]:
        assert isinstance(self.driver, ContainerDriver)
        return self.driver._supply.pool

    async def start(self, spec: MachineSpec) -> Handle:
        await self.waiting(spec)
        return await super().start(spec)

    async def waiting(self, spec: MachineSpec) -> Container | None:
        """The container that a start of this machine would take, once there is one; None if there never will be."""
        assert isinstance(self.driver, ContainerDriver)
        await self.driver.prepare(spec)
        key = self.driver._supply._key(spec)
        if key is None:
            return None
        await eventually(lambda: key in self.pool._ready, "a container that waits")
        return self.pool._ready[key][-1]

    async def assert_nothing_left_since(self, before: HostState) -> None:
        """What waits for later starts is no leak; it goes when nobody wants it."""
        for key in list(self.pool._wanted):
            self.pool.forget(key)
        await super().assert_nothing_left_since(before)


async def eventually(condition: Callable[[], bool], what: str | Callable[[], str]) -> None:
    """Waits for a condition, with a deadline."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"within {DEADLINE_S:g} s not seen: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(LOOK_S)


def _reap_zombies() -> None:
    """Shims whose driver was dropped have this process as their parent; a worker that died would not be there.

    Only they: how other children have ended is for those to learn who wait for them, on threads of their own.
    """
    own = os.getpid()
    for child in Path(f"/proc/{own}/task/{own}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ChildProcessError):  # reaped just now
            name, _, rest = Path(f"/proc/{child}/stat").read_text().rpartition(")")
            if rest.split()[0] == "Z" and name.endswith("(midge-shim"):
                os.waitpid(int(child), os.WNOHANG)


# ── factories ─────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def mock_kit(home: Path, cache: Path) -> AsyncIterator[Kit]:
    image = ImageSpec(digest="sha256:00", reference="mock")
    kit = Kit(
        home, image, lambda: MockDriver(home / "run"), marker=str(home), subnet=IPv4Network("10.0.0.0/24")
    )
    await kit.driver.open()
    try:
        yield kit
    finally:
        await kit.end()


@dataclass(frozen=True, slots=True)
class Parts:
    """What drivers that run programs are made of."""

    home: Path
    cache: Path
    images: ImageStore
    net: NetPool
    cgroups: CgroupTree
    subnet: IPv4Network


def make_container(parts: Parts, **changes: Any) -> Driver:
    settings = ContainerSettings(
        rundir=parts.home / "run",
        layers=parts.home / "layers",
        machines=parts.home / "machines",
        nameservers=lambda: ("192.0.2.53",),
        # What waits for later starts is no leak, but would look like one.
        pool=PoolSettings(slots_max=0),
    )
    settings = dataclasses.replace(settings, **changes)
    return ContainerDriver(settings, images=parts.images, net=parts.net, cgroups=parts.cgroups)


def make_qemu(parts: Parts, **changes: Any) -> Driver:
    settings = QemuSettings(
        rundir=parts.home / "run",
        memory_dir=parts.home / "memory",
        layers=parts.home / "layers",
        machines=parts.home / "machines",
        seal_key=parts.home / "seal.key",
        templates=parts.cache / "templates",
        blanks=parts.cache / "blanks",
        kernels=default_root(),
        acceleration="tcg",
        nameservers=lambda: ("192.0.2.53",),
        # What waits for later starts, or for a resume, is no leak, but would look like one.
        pool=PoolSettings(slots_max=0),
        parked=ParkedSettings(vms_max=0),
    )
    settings = dataclasses.replace(settings, **changes)
    return QemuDriver(settings, images=parts.images, net=parts.net, cgroups=parts.cgroups)


def make_firecracker(parts: Parts) -> Driver:
    # Jails hold device nodes, which file systems on memory are often mounted without, and hard links to all the rest.
    data = parts.cache / parts.home.name
    settings = FirecrackerSettings(
        rundir=parts.home / "run",
        jails=data / "jails",
        machines=data / "machines",
        snapshots=data / "snapshots",
        key_file=parts.cache / "seal.key",
        templates=parts.cache / "firecracker",
        blanks=parts.cache / "blanks",
        kernels=default_root(),
        nameservers=lambda: ("192.0.2.53",),
    )
    return FirecrackerDriver(settings, images=parts.images, net=parts.net, cgroups=parts.cgroups)


async def _real_kit(
    stack: AsyncExitStack,
    home: Path,
    cache: Path,
    kind: SlotKind,
    make: Callable[..., Driver],
    face: type[Kit] = Kit,
) -> Kit:
    tag = secrets.token_hex(3)
    subnet = IPv4Network(fresh_subnet())
    images = await stack.enter_async_context(ImageStore(cache / "images"))
    if (image := images.find(_TAG)) is None:
        [image] = await images.import_path(busybox_image(home / "layout", tag=_TAG))
        shutil.rmtree(home / "layout")
    net = await stack.enter_async_context(
        NetPool(NetConfig(tag=tag, pool=subnet, free_low={}, free_high={kind: 0}))
    )
    cgroups = CgroupTree(parent=f"midge-test-{tag}")
    cgroups.open()
    stack.callback(cgroups.close)
    parts = Parts(home, cache, images, net, cgroups, subnet)
    picture = ImageSpec(digest=image.digest, reference=_TAG)
    return face(
        home, picture, functools.partial(make, parts), marker=tag, subnet=subnet, net=net, parts=parts
    )


@asynccontextmanager
async def container_kit(home: Path, cache: Path) -> AsyncIterator[Kit]:
    _require("runc", "nft")
    async with AsyncExitStack() as stack:
        kit = await _real_kit(stack, home, cache, "veth", make_container)
        await _open_or_skip(kit.driver.open)
        try:
            yield kit
        finally:
            await kit.end()


@asynccontextmanager
async def warm_container_kit(home: Path, cache: Path) -> AsyncIterator[WarmKit]:
    _require("runc", "nft")
    make = functools.partial(make_container, pool=PoolSettings(slots_max=4, per_key=1))
    async with AsyncExitStack() as stack:
        kit = await _real_kit(stack, home, cache, "veth", make, WarmKit)
        assert isinstance(kit, WarmKit)
        await _open_or_skip(kit.driver.open)
        try:
            yield kit
        finally:
            await kit.end()


@asynccontextmanager
async def qemu_kit(home: Path, cache: Path) -> AsyncIterator[Kit]:
    _require("qemu-system-x86_64", "nft", "mkfs.erofs", "mkfs.ext4")
    async with AsyncExitStack() as stack:
        kit = await _real_kit(stack, home, cache, "tap", make_qemu)
        await _open_or_skip(kit.driver.open)
        try:
            yield kit
        finally:
            await kit.end()


@asynccontextmanager
async def firecracker_kit(home: Path, cache: Path) -> AsyncIterator[Kit]:
    """Opening the driver boots a guest, so whoever gets past it has a KVM that works."""
    _require("firecracker", "jailer", "nft", "mkfs.erofs", "mkfs.ext4")
    async with AsyncExitStack() as stack:
        kit = await _real_kit(stack, home, cache, "tap", make_firecracker)
        await _open_or_skip(kit.driver.open)
        try:
            yield kit
        finally:
            await kit.end()


def _require(*programs: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for program in (*programs, "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    for name in ("midge-shim", "midge-init"):
        try:
            binaries.find(name)
        except binaries.BinaryMissing as error:
            pytest.skip(str(error))


async def _open_or_skip(opening: Callable[[], Awaitable[None]]) -> None:
    try:
        await opening()
    except NotSupported as error:
        pytest.skip(f"{error} ({error.hint})")


KITS = {
    "mock": mock_kit,
    "container": container_kit,
    "warm container": warm_container_kit,
    "qemu": qemu_kit,
    "firecracker": firecracker_kit,
}
