"""Machines for tests of pure functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from midge.worker.host import ImageRefView
from midge.worker.record import ImageProcess, Machine

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


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Waits for something that tells nobody when it happens."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0)
