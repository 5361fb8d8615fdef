"""Bare `runc run` of the machine's own bundle: the same layers, namespaces, mounts, filter and limits.

Left out is what Midge adds: shim, init and channel; the process is executed by the runtime itself. The network
namespace is made once, as Midge takes it from its pool.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from midge.bench.errors import CannotMeasure
from midge.bench.floor.scratch import first_byte_ms, run, scratch
from midge.bench.image import COMMAND, ENVIRONMENT
from midge.bench.target import Target
from midge.drivers.container.overlay import Layers
from midge.drivers.container.spec import INIT_PATH

NAME = "floor: first byte"
CONTAINER = "midge-bench-floor"


@asynccontextmanager
async def open_container_floor(target: Target, machine: str) -> AsyncIterator[ContainerFloor]:
    own = target.own
    if own is None:
        raise CannotMeasure("only beside a server started for it")
    runtime = shutil.which("runc")
    if runtime is None:
        raise CannotMeasure("runc is not installed")
    try:
        config = msgspec.json.decode((own.run_dir / "m" / machine / "config.json").read_bytes())
    except FileNotFoundError as error:
        raise CannotMeasure("the machine has no bundle") from error
    # On the same disk as Midge's writable layers, its state on tmpfs as Midge's.
    with scratch(own.data_dir) as layers, scratch(own.run_dir) as folder:
        namespace = await asyncio.create_subprocess_exec("unshare", "--net", "sleep", "infinity")
        try:
            await _until_own_namespace(namespace.pid)
            bare(config, netns=Path(f"/proc/{namespace.pid}/ns/net"), root=folder / "root")
            yield ContainerFloor(runtime, folder, Layers(layers), config)
        finally:
            namespace.kill()
            await namespace.wait()


def bare(config: dict[str, Any], *, netns: Path, root: Path) -> None:
    """Turns a machine's bundle into that of the process alone."""
    config["process"]["args"] = list(COMMAND)
    config["process"]["env"] = list(ENVIRONMENT)
    config["root"]["path"] = str(root)
    config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] != INIT_PATH]
    config["linux"]["cgroupsPath"] = f"/{CONTAINER}"
    for namespace in config["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = str(netns)


class ContainerFloor:
    def __init__(self, runtime: str, folder: Path, layers: Layers, config: dict[str, Any]) -> None:
        overlays = [mount for mount in config["mounts"] if mount["type"] == "overlay"]
        if not overlays:
            raise CannotMeasure("the machine's root is not an overlay mounted by the runtime")
        self._runtime = [runtime, "--root", str(folder / "state")]
        self._folder = folder
        self._layers = layers
        self._config = config
        self._overlay = overlays[0]
        (folder / "root").mkdir()
        options = dict(option.partition("=")[::2] for option in self._overlay["options"])
        self._lower = [Path(part) for part in options["lowerdir"].split(":")]

    async def once(self) -> dict[str, float]:
        self._layers.make(self._lower, persist=False)
        self._overlay["options"] = self._layers.options(self._lower, persist=False).split(",")
        (self._folder / "config.json").write_bytes(msgspec.json.encode(self._config))
        words = [*self._runtime, "run", "--bundle", str(self._folder), CONTAINER]
        try:
            elapsed = await first_byte_ms(words, end=[*self._runtime, "delete", "--force", CONTAINER])
        finally:
            await run(*self._runtime, "delete", "--force", CONTAINER)
            self._layers.discard()
        return {NAME: elapsed}


async def _until_own_namespace(pid: int) -> None:
    """Until `unshare` has done it: its execution of `sleep` comes after."""
    for _ in range(500):
        with suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "sleep":
                return
        await asyncio.sleep(0.01)
    raise CannotMeasure("no network namespace could be made", hint="run it as root")
