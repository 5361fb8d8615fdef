"""podman and docker, side by side: `start` of a container that was created before, until its first byte."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from midge.bench.context import Context
from midge.bench.errors import CannotMeasure
from midge.bench.floor.base import Floor
from midge.bench.floor.scratch import first_byte_ms, run, scratch
from midge.bench.image import COMMAND, ENVIRONMENT

ENGINES = ("podman", "docker")
IMAGE = "localhost/midge-bench:latest"
CONTAINER = "midge-bench-peer"


@asynccontextmanager
async def open_peers(ctx: Context) -> AsyncIterator[list[Floor]]:
    """Those that are installed and work; for the others the reason goes into the report."""
    async with AsyncExitStack() as stack:
        found: list[Floor] = []
        for engine in ENGINES:
            if shutil.which(engine) is None:
                continue
            try:
                found.append(await stack.enter_async_context(_open(ctx, engine)))
            except CannotMeasure as error:
                ctx.skip(f"{engine}: {error}")
        yield found


@asynccontextmanager
async def _open(ctx: Context, engine: str) -> AsyncIterator[Peer]:
    from midge.testing.images import build_docker_archive, busybox_files

    await run(engine, "info", check=True)
    with scratch(ctx.options.scratch) as folder:
        archive = build_docker_archive(
            folder / "image.tar",
            layers=[busybox_files()],
            tag=IMAGE,
            cmd=list(COMMAND),
            env=list(ENVIRONMENT),
        )
        await run(engine, "load", "--input", str(archive), check=True)
    try:
        await run(engine, "rm", "--force", CONTAINER)
        await run(engine, "create", "--name", CONTAINER, IMAGE, check=True)
        yield Peer(engine)
    finally:
        await run(engine, "rm", "--force", CONTAINER)
        await run(engine, "rmi", "--force", IMAGE)


class Peer:
    def __init__(self, engine: str) -> None:
        self._engine = engine

    async def once(self) -> dict[str, float]:
        words = [self._engine, "start", "--attach", CONTAINER]
        elapsed = await first_byte_ms(words, end=[self._engine, "kill", CONTAINER])
        return {f"{self._engine} start: first byte": elapsed}
