"""midge-shim with a lot of output."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest

from midge.guest import protocol as p
from midge.guest.protocol import FrameType
from midge.logs.files import open_newest_first
from midge.logs.reader import LogReader

from .conftest import DEADLINE_S, Machine

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(600)]

VOLUME_DEADLINE_S = 300.0  # for all of it, on a busy host
OUTPUT_BYTES = 100_000_000
FILE_BYTES = 10_000_000


async def test_much_output_is_complete_and_rotated(machine: Machine) -> None:
    shim, guest = await machine.start(log_max_bytes=FILE_BYTES, log_keep=30)
    source = random.Random(7)
    block = b"".join(
        source.randbytes(source.randrange(120)).replace(b"\n", b"-") + b"\n" for _ in range(3000)
    )
    sent, written = hashlib.sha256(), 0
    while written < OUTPUT_BYTES:
        # Frames end anywhere in a line.
        size = source.randrange(40_000, 65_536)
        at = source.randrange(0, len(block) - size)
        piece = block[at : at + size]
        await guest.send(FrameType.OUTPUT, piece)
        sent.update(piece)
        written += size
    await guest.send(FrameType.EXIT, b'{"exit_code":0}')
    while (await guest.recv()).type != FrameType.EXIT_ACK:
        pass
    guest.finish()
    await asyncio.wait_for(shim.wait(), DEADLINE_S)
    logs = list(open_newest_first(machine.log))
    assert len(logs) > 10
    got, last_ns = hashlib.sha256(), 0
    for log in reversed(logs):
        while records := log.read():
            for record in records:
                assert record.time_ns > last_ns
                last_ns = record.time_ns
                got.update(record.data + b"\n" if record.complete else record.data)
        assert log.offset <= FILE_BYTES
        log.close()
    assert got.digest() == sent.digest()


async def test_reader_follows_through_rotations(machine: Machine) -> None:
    _, guest = await machine.start(log_max_bytes=65_536, log_keep=100)
    count = 30_000
    records = LogReader(machine.log).follow(since_ns=0)

    async def write() -> None:
        for start in range(0, count, 100):
            lines = b"".join(b"%d\n" % number for number in range(start, start + 100))
            await guest.send_raw(p.encode_frame(FrameType.OUTPUT, 0, lines))

    async with asyncio.timeout(VOLUME_DEADLINE_S), asyncio.TaskGroup() as group:
        group.create_task(write())
        for number in range(count):
            assert (await anext(records)).data == b"%d" % number
