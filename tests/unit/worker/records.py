"""Machines for tests of pure functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from midge.drivers.base import Handle, Trace
from midge.drivers.mock import MockDriver
from midge.machine.spec import MachineSpec
from midge.worker.host import ImageRefView
from midge.worker.record import ImageProcess, Machine
from tests.deadlines import PATIENCE_S

IMAGE = ImageRefView(registry="docker.io", repository="library/debian", tag="12", digest="sha256:abc")


def machine(process: ImageProcess | None = None, **fields: Any) -> Machine:
    """A machine; keyword arguments that are no columns are members of its configuration."""
    columns = {name: fields.pop(name) for name in list(fields) if name in Machine.__struct_fields__}
    config = {"image": "debian:12", "guest": {"cpus": 1, "memory_mb": 256, "cpu_kind": "shared"}, **fields}
    defaults: dict[str, Any] = {
        "id": "1857156b526dd8",
        "app": "web",
        "name": "quiet-dawn-1000",
        "region": "lhr",
        "state": "started",
        "version": "01V1",
        "config_json": msgspec.json.encode(config),
        "image_ref": IMAGE,
        "image_process": process or ImageProcess(),
        "ipv4": "10.61.0.2",
        "mac": "02:4d:00:00:00:02",
        "created_at_ns": 1,
        "updated_at_ns": 1,
        "seq": 1,
        "memory_mb": 256,
    }
    return Machine(**{**defaults, **columns})


class Held(MockDriver):
    """While `free` is not set, machines are neither prepared nor started: the test says how long it takes, no clock.

    `held` is set once one waits.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.free = asyncio.Event()
        self.free.set()
        self.held = asyncio.Event()

    async def prepare(self, spec: MachineSpec) -> None:
        await self._turn()
        await super().prepare(spec)

    async def start(self, spec: MachineSpec, trace: Trace) -> Handle:
        await self._turn()
        return await super().start(spec, trace)

    async def _turn(self) -> None:
        if not self.free.is_set():
            self.held.set()
            await self.free.wait()


async def until(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Waits for something that tells nobody when it happens."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0)
