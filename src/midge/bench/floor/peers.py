"""podman and docker, side by side: `start` of a container that was created before, until its first byte.

podman gets a store, a run directory and a parent control group of its own, so nothing of the user's is touched, and its
container no network at all: that is less than ours has (a namespace with an address), and in podman's favour. docker
has one daemon for all; image and container are removed afterwards.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from midge.bench.context import Context
from midge.bench.errors import CannotMeasure
from midge.bench.floor.base import Floor
from midge.bench.floor.scratch import first_byte_ms, run, scratch
from midge.bench.image import COMMAND, ENVIRONMENT

IMAGE = "localhost/midge-bench:latest"
CONTAINER = "midge-bench-peer"
CGROUP = "midge-bench-peer"
_RUN = Path("/run")
_CGROUPS = Path("/sys/fs/cgroup")
_LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
_LIMIT_MAX = 4096  # podman would raise them as far as the kernel allows, which not every root may
# Locks in files: else all of a host's podmans share one segment of memory.
_CONFIG = '[engine]\nlock_type = "file"\n'


@dataclass(frozen=True, slots=True)
class Engine:
    """How one is called. `words` begin every command, `create` is added to its creation of a container."""

    name: str
    words: tuple[str, ...]
    create: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    async def run(self, *words: str, check: bool = False) -> str:
        return await run(*self.words, *words, check=check, env=self.env)


@asynccontextmanager
async def open_peers(ctx: Context) -> AsyncIterator[list[Floor]]:
    """Those that are installed and work; for the others the reason goes into the report."""
    async with AsyncExitStack() as stack:
        found: list[Floor] = []
        for opening in (_podman, _docker):
            try:
                engine = await stack.enter_async_context(opening(ctx))
                if engine is not None:
                    found.append(await stack.enter_async_context(_container(ctx, engine)))
            except CannotMeasure as error:
                ctx.skip(f"peer: {error}")
        yield found


@asynccontextmanager
async def _podman(ctx: Context) -> AsyncIterator[Engine | None]:
    if shutil.which("podman") is None:
        ctx.skip("podman is not installed")
        yield None
        return
    runs = _RUN if os.access(_RUN, os.W_OK) else ctx.options.scratch
    with scratch(ctx.options.scratch) as store, scratch(runs) as running:
        try:
            yield podman(store, running)
        finally:
            _remove_groups(_CGROUPS)


def _remove_groups(root: Path) -> None:
    """The control groups podman leaves behind, in every hierarchy."""
    for top in (*root.glob(CGROUP), *root.glob(f"*/{CGROUP}")):
        folders = [path for path in top.rglob("*") if path.is_dir()]
        for group in [*sorted(folders, key=lambda path: -len(path.parts)), top]:
            with contextlib.suppress(OSError):  # not empty: what holds it is shown by its name
                group.rmdir()


def podman(store: Path, running: Path) -> Engine:
    """With a place of its own for everything."""
    limits = [f"--ulimit={name}={value}:{value}" for name, value in _own_limits().items()]
    config = store / "containers.conf"
    config.write_text(_CONFIG)
    return Engine(
        "podman",
        (
            "podman",
            *(
                "--root",
                str(store / "root"),
                "--runroot",
                str(running / "root"),
                "--tmpdir",
                str(running / "tmp"),
            ),
            *("--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
        ),
        ("--network", "none", "--cgroup-parent", f"/{CGROUP}", *limits),
        {"CONTAINERS_CONF": str(config)},
    )


def _own_limits() -> dict[str, int]:
    found = {name: resource.getrlimit(kind)[1] for name, kind in _LIMITS.items()}
    return {name: hard if 0 <= hard < _LIMIT_MAX else _LIMIT_MAX for name, hard in found.items()}


@asynccontextmanager
async def _docker(ctx: Context) -> AsyncIterator[Engine | None]:
    yield Engine("docker", ("docker",), ("--network", "none")) if shutil.which("docker") else None


@asynccontextmanager
async def _container(ctx: Context, engine: Engine) -> AsyncIterator[Peer]:
    from midge.testing.images import build_docker_archive, busybox_files

    await engine.run("info", check=True)
    with scratch(ctx.options.scratch) as folder:
        archive = build_docker_archive(
            folder / "image.tar",
            layers=[busybox_files()],
            tag=IMAGE,
            cmd=list(COMMAND),
            env=list(ENVIRONMENT),
        )
        await engine.run("load", "--input", str(archive), check=True)
    try:
        await engine.run("rm", "--force", CONTAINER)
        await engine.run("create", "--name", CONTAINER, *engine.create, IMAGE, check=True)
        peer = Peer(engine)
        await peer.once()  # one that does not start here is left out, with the reason
        yield peer
    finally:
        await engine.run("rm", "--force", CONTAINER)
        await engine.run("rmi", "--force", IMAGE)


class Peer:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def once(self) -> dict[str, float]:
        words, env = self._engine.words, self._engine.env
        start = [*words, "start", "--attach", CONTAINER]
        elapsed = await first_byte_ms(start, end=[*words, "kill", CONTAINER], env=env)
        return {f"{self._engine.name} start: first byte": elapsed}
