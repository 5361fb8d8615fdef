"""A whole host on temporary directories: real virtual machines under software emulation, one worker, restartable.

Everything lies under one folder on tmpfs, and everything Midge makes outside it carries the instance's tag, so that
`picture` sees all of it and nothing of others.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from midge.drivers.base import ExecRequest
from midge.drivers.pool_settings import ParkedSettings, PoolSettings
from midge.drivers.qemu.driver import QemuDriver
from midge.drivers.seal import host_key
from midge.drivers.shim_files import read_state
from midge.images.store import ImageStore
from midge.kernel.store import default_root
from midge.net.naming import instance_tag
from midge.sys.leaks import HostState, diff, snapshot
from midge.testing.images import build_layout, busybox_files
from midge.testing.worker import create_request
from midge.worker.build import HostSettings, open_host
from midge.worker.host import EventView
from midge.worker.local import LocalHost
from tests.contract.drivers.kit import _reap_zombies, eventually
from tests.subnets import subnet_for

DEADLINE_S = 120.0  # for anything that is waited for: emulated guests on a busy host
CLOCK_TOLERANCE_S = 2.0  # of whole seconds
CHUNK_BYTES = 4 * 1024 * 1024
PAGE_BYTES = 4096
RUNS_LOOKED_AT = 10  # the end of a process is an operation, too
TAG = "midge/fork:latest"
IDLE = "exec sleep 1000000"
# The environment of that sleep, which is a shell still, or just being executed, when the machine is started.
ENVIRON = "until (tr '\\0' '\\n' < /proc/$(pidof sleep)/environ) 2>/dev/null | grep .; do :; done"
# Templates, images and logs are kept on purpose; a running worker's database has files that come and go.
KEPT = {"templates", "blanks", "images", "logs"}

_log = logging.getLogger("figures")


class House:
    """A host that can be closed and opened again on the same folders. `host` is its face, `driver` what is behind it.

    Args:
        home: the folder; on tmpfs.
        templates: shared with other houses, so that not each has to boot a kernel; None for its own.
    """

    def __init__(self, home: Path, *, templates: Path | None = None, warm: int = 0, parked: int = 0) -> None:
        self.home = home
        self.data = home / "data"
        self.data.mkdir(exist_ok=True)
        if templates is not None and not (self.data / "templates").exists():
            (self.data / "templates").symlink_to(templates)
            _share_key(templates, self.data / "seal.key")
        for folder in (home / "run", home / "memory"):
            folder.mkdir(exist_ok=True)
        self.settings = settings(home, warm, parked)
        self.tag = instance_tag(self.data)
        self._stack = AsyncExitStack()
        self.host: LocalHost
        self.images: ImageStore

    async def open(self) -> None:
        self.host, self.images = await self._stack.enter_async_context(open_host(self.settings))
        if not self.images.find(TAG):
            await self.images.import_path(_image(self.home / "layout"))

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def reopen(self) -> None:
        """The worker ends, and the next one begins on what it left."""
        await self.aclose()
        await self.open()

    async def end(self) -> None:
        """Destroys every machine and closes."""
        for machine in self.host.list():
            await self.destroy(machine.id)
        await self.aclose()

    @property
    def driver(self) -> QemuDriver:
        driver = self.host._worker.parts.driver
        assert isinstance(driver, QemuDriver)
        return driver

    # ── machines ──────────────────────────────────────────────────────────────────────────────────────────────

    async def create(self, script: str = IDLE, *, memory_mb: int = 256, **config: Any) -> str:
        """A machine that runs a shell script once it is started, and is not restarted when that ends."""
        config.setdefault("init", {"exec": ["/bin/sh", "-c", script]})
        request = create_request(
            image=TAG,
            skip_launch=True,
            guest={"cpus": 1, "memory_mb": memory_mb},
            restart={"policy": "no"},
            **config,
        )
        view = await self.host.create(request)
        await self.reach(view.id, "created")
        return view.id

    async def run(self, script: str = IDLE, **config: Any) -> str:
        """The same, started."""
        machine = await self.create(script, **config)
        await self.start(machine)
        return machine

    async def start(self, machine: str) -> dict[str, Any]:
        """Starts or resumes; what the start event says."""
        await self.host.start(machine)
        await self.reach(machine, "started", "stopped")
        return self.start_event(machine)

    async def suspend(self, machine: str) -> None:
        await self.host.suspend(machine)
        await self.reach(machine, "suspended")

    async def stop(self, machine: str) -> None:
        await self.host.stop(machine)
        await self.reach(machine, "stopped")

    async def destroy(self, machine: str) -> None:
        await self.host.destroy(machine, force=True)
        await self.reach(machine, "destroyed")

    async def reach(self, machine: str, *states: str) -> str:
        """Waits for one of the states; what else it is in after DEADLINE_S, the events tell."""
        try:
            return (await self.host.wait(machine, states=states, timeout_s=DEADLINE_S)).state
        except Exception as error:
            events = [(e.type, e.status, e.request) for e in self.host.events(machine, 5)]
            raise AssertionError(f"{machine} is {self.state(machine)}, not {states}: {events}") from error

    def state(self, machine: str) -> str:
        return self.host.get(machine).state

    def events(self, machine: str) -> list[EventView]:
        """Newest first."""
        return list(self.host.events(machine, 50))

    def start_event(self, machine: str) -> dict[str, Any]:
        """What the latest start said of itself: `resumed`, and `note` where that is no surprise."""
        for event in self.events(machine):
            if event.status == "started" and event.request is not None:
                return dict(event.request)
        raise AssertionError(f"{machine} was never started: {self.events(machine)}")

    def phases(self, machine: str) -> dict[str, float]:
        """Of the latest start, whatever came after it: ends of its phases, in milliseconds."""
        runs = self.host.phases(machine, RUNS_LOOKED_AT)
        return dict(next(run["phases"] for run in runs if run["kind"] == "start"))

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────

    async def sh(self, machine: str, script: str, stdin: bytes = b"") -> str:
        """Output of a script that must succeed."""
        return (await self.sh_bytes(machine, script, stdin)).decode()

    async def sh_bytes(self, machine: str, script: str, stdin: bytes = b"") -> bytes:
        output = bytearray()
        request = ExecRequest(argv=["/bin/sh", "-c", script], stdin=bool(stdin))
        async with asyncio.timeout(DEADLINE_S), self.host.exec(machine, request) as session:
            if stdin:
                await session.write_stdin(stdin)
                await session.close_stdin()
            async for _, data in session.output():
                output += data
            ended = await session.wait()
        assert ended.exit_code == 0, f"{script!r}: exit code {ended.exit_code}: {bytes(output[-500:])!r}"
        return bytes(output)

    async def assert_clock_is_right(self, machine: str) -> None:
        """However long question and answer are under way."""
        asked = time.time()
        said = float(await self.sh(machine, "date +%s"))
        assert asked - CLOCK_TOLERANCE_S < said < time.time() + CLOCK_TOLERANCE_S

    def said(self, machine: str) -> list[str]:
        """Lines the machine's process has written."""
        path = self.data / "logs" / machine / "output.log"
        if not path.exists():
            return []
        whole, _, _ = path.read_text().rpartition("\n")  # the rest is just being written
        return [line.split(" ", 3)[3] for line in whole.splitlines() if line.count(" ") >= 3]

    async def line(self, machine: str, prefix: str) -> str:
        """The latest line of the log that begins so, without the beginning; waits for the first."""
        await eventually(lambda: any(s.startswith(prefix) for s in self.said(machine)), f"line {prefix!r}")
        return [s.removeprefix(prefix) for s in self.said(machine) if s.startswith(prefix)][-1]

    # ── on the host ───────────────────────────────────────────────────────────────────────────────────────────

    def vm(self, machine: str) -> str:
        """Name of the VM the machine runs in."""
        name = self.driver._links.find(machine)
        assert name is not None, f"{machine} has no VM"
        return name

    def process(self, vm: str) -> tuple[int, int]:
        """Process ids of shim and QEMU."""
        record = read_state(self.home / "run" / "m" / vm).record
        assert record is not None
        return record.shim_pid, record.child_pid

    def saved(self, machine: str) -> Path:
        """Where the snapshot of a suspended machine lies."""
        return self.data / "machines" / machine / "suspend"

    def hot(self, machine: str) -> Path:
        """The memory of a suspended machine before it is on disk."""
        return self.home / "memory" / f"suspended-{machine}"

    async def on_disk(self, machine: str) -> None:
        """Waits until a suspended machine is on disk, and nothing of it in the memory of the host."""
        await self.driver._parked.gone(machine)
        await eventually(
            lambda: not self.hot(machine).exists() and (self.saved(machine) / "seal").exists(),
            "memory on disk",
        )

    @property
    def parks(self) -> bool:
        """Whether suspended machines keep their VM."""
        return self.settings.parked.vms_max > 0

    def parked(self) -> set[str]:
        """Names of the VMs that suspended machines have kept."""
        return self.driver._parked.names()

    async def warm(self) -> None:
        """Waits until a guest waits: restored, warmed, paused."""
        await eventually(lambda: any(key.kind == "guest" for key in self.driver._pool._ready), "a warm slot")

    def slots(self) -> set[str]:
        """Names of the warm VMs that wait."""
        return self.driver._pool.names()

    def slots_are_made(self) -> bool:
        """Whether the pool of network slots is as full as it gets, and nothing of it is on its way out."""
        net = self.driver._vms._net
        found = net.statistics()
        return found.dirty == 0 and found.free["tap"] + found.taken >= net.config.free_high["tap"]

    def picture(self) -> HostState:
        """What exists on this host of this house. Not counted: what waits in the pool of network slots."""
        _reap_zombies()
        folders = [self.home / "run", self.home / "memory", self.data / "layers", self.data / "machines"]
        return snapshot([self.tag, str(self.home)], [folder for folder in folders if folder.exists()])

    async def assert_nothing_left_since(self, before: HostState) -> None:
        await eventually(lambda: not self.left(before), lambda: f"left: {self.left(before)}")

    def left(self, before: HostState) -> list[str]:
        """New things, but for ready network slots: the pool holds as many as before, under other numbers."""
        kinds = ("netns:", "mount:", "interface:", "route:", "descriptor:")
        after = self.picture()
        new = [thing for thing in diff(before, after) if not thing.startswith(kinds)]
        for kind in ("netns", "mount", "interface"):
            grown = len(getattr(after, kind)) - len(getattr(before, kind))
            if grown > 0:
                new.append(f"{kind}: {grown} more than before")
        return new


def _share_key(templates: Path, path: Path) -> None:
    """Templates are under a host's seal: houses that share them are one host to them."""
    key = templates.with_name(f"{templates.name}.key")
    host_key(key)
    shutil.copy2(key, path)


def _image(dest: Path) -> Path:
    """busybox, and a machine-id as careless images carry it: the same for all."""
    files = busybox_files() | {"etc/machine-id": "0123456789abcdef0123456789abcdef\n"}
    return build_layout(dest, layers=[files], tag=TAG, cmd=["/bin/sh"], env=["PATH=/usr/bin:/bin"])


def settings(home: Path, warm: int, parked: int) -> HostSettings:
    return HostSettings(
        data_dir=home / "data",
        run_dir=home / "run",
        memory_dir=home / "memory",
        kernels_dir=default_root(),
        driver="qemu",
        subnet=subnet_for(home),
        acceleration="tcg",
        kernel="auto",
        warm=PoolSettings(slots_max=warm, per_key=1),
        parked=ParkedSettings(vms_max=parked),
    )


def figure(name: str, values_ms: list[float]) -> None:
    """Leaves a measured value in the log of the test run."""
    p50 = statistics.median(values_ms)
    _log.info(
        "%s: p50 %.0f ms, max %.0f ms, n=%d, load %.1f",
        name,
        p50,
        max(values_ms),
        len(values_ms),
        os.getloadavg()[0],
    )


def elapsed_ms(since_s: float) -> float:
    return (time.perf_counter() - since_s) * 1000


def holds(path: Path, word: bytes) -> bool:
    """Whether the data of a file, holes left out, contains these bytes."""
    end, tail = 0, b""
    for position, data in pieces(path):
        tail = tail if position == end else b""
        if word in tail + data:
            return True
        end, tail = position + len(data), data[-len(word) :]
    return False


def digest(path: Path) -> str:
    """Of what is in a file and where, wherever it has holes: most of a machine's disk is one."""
    found, zeros = hashlib.blake2b(), bytes(PAGE_BYTES)
    for position, data in pieces(path):
        for offset in range(0, len(data), PAGE_BYTES):
            page = data[offset : offset + PAGE_BYTES]
            if page != zeros[: len(page)]:
                found.update(f"{position + offset} {len(page)} ".encode() + page)
    return f"{path.stat().st_size} {found.hexdigest()}"


def pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """A file without its holes: positions and what is there."""
    with path.open("rb") as file:
        position, size = 0, path.stat().st_size
        while position < size:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole is left
                return
            data = os.pread(file.fileno(), CHUNK_BYTES, position)
            yield position, data
            position += len(data)
