"""The shim's way to a guest through Firecracker's socket."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from midge import binaries
from midge.drivers.shim import ShimSpec, VsockChannel, launch
from midge.guest import protocol as p
from midge.testing.fake_init import FakeInit

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]
DEADLINE_S = 60.0  # on a busy host


@pytest.fixture
def folder() -> Iterator[Path]:
    try:
        binaries.find("midge-shim")
    except binaries.BinaryMissing as error:
        pytest.skip(str(error))
    folder = Path(tempfile.mkdtemp(prefix="mf-"))
    yield folder
    shutil.rmtree(folder)


async def test_asks_again_when_a_request_for_a_connection_is_lost(folder: Path) -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        assert await reader.readuntil(b"\n") == b"CONNECT 10000\n"
        if asked == 1:
            await reader.read()  # never answered: the guest has taken it for one it already had
            writer.close()
            return
        writer.write(b"OK 1073741825\n")
        init, decoder = FakeInit(), p.FrameDecoder()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                for frame in decoder.feed(data):
                    writer.write(init.on_frame(frame))
        writer.close()

    server = await asyncio.start_unix_server(serve, folder / "v.sock")
    spec = ShimSpec(
        rundir=folder,
        program=("sleep", "1000"),
        log=folder / "log",
        channel=VsockChannel(folder / "v.sock", 10_000),
    )
    process = await launch(spec)
    async with await process.attach() as channel:
        greeting = await asyncio.wait_for(channel.hello(), DEADLINE_S)
        assert greeting.state == "waiting"
        assert asked >= 2
        await channel.kill()
        await asyncio.wait_for(channel.wait_ended(), DEADLINE_S)
    await asyncio.wait_for(process.wait(), DEADLINE_S)
    server.close()
