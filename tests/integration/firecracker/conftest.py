"""The driver with a real shim, real jails and control groups, and programs that are not Firecracker's."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Collection
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from midge import binaries
from midge.cgroup import CgroupTree
from midge.drivers.base import Handle
from midge.drivers.firecracker import api, boot, launch, usable, version
from midge.drivers.firecracker import driver as drivers
from midge.drivers.firecracker.driver import FirecrackerDriver
from midge.errors import NotFound
from midge.kernel.store import Kernel
from midge.machine.spec import ImageSpec, MachineSpec, NetworkSpec
from midge.net.config import NetConfig
from midge.net.slot import NetSlot
from tests.contract.drivers.kit import eventually
from tests.unit.drivers.firecracker.parts import make_kernel, make_settings

DEADLINE_S = 60.0  # for anything that is waited for, on a busy host
# Firecracker and jailer are Python's programs here, which on a busy host take a while to begin.
TIMEOUTS = (
    (launch, "API_TIMEOUT_S"),
    (boot, "BOOT_TIMEOUT_S"),
    (version, "VERSION_TIMEOUT_S"),
    (api, "REQUEST_TIMEOUT_S"),
)


class Slots:
    """A pool of network slots without a network: all are the host's own namespace."""

    def __init__(self) -> None:
        self.config = NetConfig(tag="abc001")
        self.taken: dict[str, NetSlot] = {}
        self._made = 0

    async def take(self, kind: str, ip: IPv4Address, mac: str | None = None) -> NetSlot:
        self._made += 1  # as in the pool, a number has nothing to do with an address, and is soon another one
        slot = HostSlot(
            f"slot{int(ip) & 0xFF}", "tap", self._made, "", 0, 0, 1500, ip, mac or "02:00:00:00:00:01"
        )
        self.taken[slot.name] = slot
        return slot

    async def adopt(self, name: str) -> NetSlot:
        if name not in self.taken:
            raise NotFound(f"no slot {name}")
        return self.taken[name]

    async def give_back(self, slot: NetSlot) -> None:
        del self.taken[slot.name]

    async def sweep(self, known: Collection[str] = ()) -> list[str]:
        return [name for name in list(self.taken) if name not in known and self.taken.pop(name)]


class HostSlot(NetSlot):
    @property
    def netns_path(self) -> Path:
        return Path("/proc/self/ns/net")


class Images:
    """One image."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def erofs(self, digest: str) -> Path:
        return self.path


class Marks:
    def __init__(self) -> None:
        self.phases: list[str] = []

    def mark(self, phase: str, ago_s: float = 0.0) -> None:
        self.phases.append(phase)


class Host:
    """A host with the driver open."""

    def __init__(self, home: Path, cgroups: CgroupTree) -> None:
        self.home = home
        self.cgroups = cgroups
        self.slots = Slots()
        self.settings = make_settings(
            home, firecracker=str(home / "bin/firecracker"), jailer=str(home / "bin/jailer"), rootfs_mb=16
        )
        self.image = home / "image"
        self.driver = self.make()
        self.machines: list[str] = []

    def make(self, **changes: Any) -> FirecrackerDriver:
        self.settings = dataclasses.replace(self.settings, **changes)
        images, net = Images(self.image), self.slots
        return FirecrackerDriver(self.settings, images=images, net=net, cgroups=self.cgroups)  # type: ignore[arg-type]  # no network

    async def renew(self, **changes: Any) -> None:
        """The worker ends and another one begins."""
        await self.driver.aclose()
        self.driver = self.make(**changes)
        await self.driver.open()

    def spec(self, *argv: str, machine: str = "m1", start_id: str = "s1", **changes: Any) -> MachineSpec:
        if machine not in self.machines:
            self.machines.append(machine)
        return MachineSpec(
            **{
                "machine_id": machine,
                "app": "app",
                "name": machine,
                "version": "1",
                "start_id": start_id,
                "image": ImageSpec(digest="sha256:1", reference="image"),
                "shape": drivers.Shape(memory_mb=128),
                "hostname": machine,
                "argv": list(argv or ("run",)),
                "env": [],
                "cwd": "/",
                "network": NetworkSpec(
                    ipv4=f"10.61.0.{10 + self.machines.index(machine)}", mac="02:00:00:00:00:02"
                ),
                "log_path": str(self.home / f"{machine}.log"),
                **changes,
            }
        )

    async def start(self, spec: MachineSpec) -> Handle:
        async with asyncio.timeout(DEADLINE_S):
            return await self.driver.start(spec, Marks())

    def left(self, machine: str = "m1") -> list[str]:
        """What there is of a machine."""
        places = {
            "run": self.settings.rundir / machine,
            "jail": self.settings.jails / "firecracker" / machine,
            "disk": self.settings.machines / machine / "upper.ext4",
            "snapshot": self.settings.snapshots / machine,
            "draft": self.settings.snapshots / f".{machine}",
        }
        found = [name for name, path in places.items() if path.exists()]
        found += ["cgroup"] if self.cgroups.get(machine).exists() else []
        return found + [name for name in self.slots.taken if name != "slot1"]

    def processes(self) -> list[str]:
        """Command lines of everything that runs out of this home."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
            if str(self.home) in words and folder.name != str(os.getpid()):
                found.append(words)
        return found


@pytest.fixture
async def host(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    for name in ("midge-shim", "midge-init"):
        try:
            binaries.find(name)
        except binaries.BinaryMissing as error:
            pytest.skip(str(error))
    home = Path(tempfile.mkdtemp(prefix="mf-"))
    home.chmod(0o755)
    _install(home)
    monkeypatch.setattr(drivers.KernelStore, "ensure", _kernel_in(home))
    monkeypatch.setattr(usable, "check_device", lambda: None)
    for place, name in TIMEOUTS:
        monkeypatch.setattr(place, name, DEADLINE_S)
    monkeypatch.setattr(usable.prove, "__defaults__", (home / "verdict.json",))
    tree = CgroupTree(parent=f"midge-test-{secrets.token_hex(3)}")
    tree.open()
    host = Host(home, tree)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await host.driver.open()
        yield host
        for machine in host.machines:
            await host.driver.destroy(machine)
        await host.driver.aclose()
        await eventually(lambda: not host.processes(), lambda: f"left: {host.processes()}")
    finally:
        tree.close()
        shutil.rmtree(home)


def _install(home: Path) -> None:
    (home / "bin").mkdir()
    source = Path(__file__).with_name("fake_jailer.py").parents[3]
    for name, says in (("firecracker", "Firecracker"), ("jailer", "Jailer")):
        program = home / "bin" / name
        lines = [
            f"#!{sys.executable}",
            "import sys",
            f"sys.path[:0] = [{str(source)!r}, {str(source / 'src')!r}]",
            "from tests.integration.firecracker.fake_jailer import main",
            f"main({says!r})",
        ]
        program.write_text("\n".join(lines) + "\n")
        program.chmod(0o755)
    for name in ("image", "initramfs"):
        (home / name).write_bytes(name.encode())
        (home / name).chmod(0o644)


def _kernel_in(home: Path) -> Any:
    async def ensure(self: object, flavour: str, *, init_binary: Path) -> Kernel:
        return make_kernel(home)

    return ensure
