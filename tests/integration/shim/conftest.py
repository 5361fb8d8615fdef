"""A real shim with the test in the guest's place."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from midge import binaries
from midge.drivers.shim import ShimProcess, ShimSpec, attach, launch
from midge.drivers.shim_files import ShimState, read_state
from midge.guest import protocol as p
from midge.guest.channel import GuestChannel
from midge.logs.reader import LogReader
from midge.logs.record import LogRecord
from midge.testing.fake_init import FakeInit

PROGRAM = Path(__file__).with_name("guest_program.py")
DEADLINE_S = 60.0  # for anything that is waited for, on a busy host
CHANNEL_FD = 5


class GuestEnd:
    """The guest's end of the channel."""

    def __init__(self, sock: socket.socket, control: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.control = control
        self._decoder = p.FrameDecoder()
        self._frames: list[p.Frame] = []

    async def send(self, type_: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0) -> None:
        await self.send_raw(p.encode_frame(type_, stream, payload, flags))

    async def send_raw(self, data: bytes) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def recv(self) -> p.Frame:
        loop = asyncio.get_running_loop()
        while not self._frames:
            async with asyncio.timeout(DEADLINE_S):
                data = await loop.sock_recv(self.sock, 262_144)
            if not data:
                raise EOFError("channel has ended")
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    async def serve(self, init: FakeInit) -> None:
        """Answers like an init until the channel ends."""
        while True:
            try:
                frame = await self.recv()
                await self.send_raw(init.on_frame(frame))
            except (EOFError, ConnectionError):
                return

    def finish(self, code: int = 0) -> None:
        """The program ends."""
        self.control.send(bytes([code]))

    def close(self) -> None:
        self.sock.close()
        self.control.close()


class Machine:
    """A run directory, and what runs in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rundir = directory / "run"
        self.rundir.mkdir()
        self.log = directory / "log"
        self._control = socket.socket(socket.AF_UNIX)
        self._control.bind(str(directory / "control"))
        self._control.listen(4)
        self._control.setblocking(False)
        self._shims: list[ShimProcess] = []
        self._ends: list[GuestEnd] = []
        self.spec = ShimSpec(
            rundir=self.rundir,
            log=self.log,
            channel=CHANNEL_FD,
            program=(sys.executable, "-ISE", str(PROGRAM), str(CHANNEL_FD), str(directory / "control")),
        )

    async def launch(self, **changes: object) -> ShimProcess:
        self.spec = dataclasses.replace(self.spec, **changes)  # type: ignore[arg-type]  # names are the spec's
        shim = await launch(self.spec)
        self._shims.append(shim)
        return shim

    async def start(self, **changes: object) -> tuple[ShimProcess, GuestEnd]:
        """Launches the guest program and takes its end of the channel."""
        shim = await self.launch(**changes)
        return shim, await self.guest_end()

    async def guest_end(self) -> GuestEnd:
        loop = asyncio.get_running_loop()
        control, _ = await asyncio.wait_for(loop.sock_accept(self._control), DEADLINE_S)
        control.setblocking(True)
        _, fds, _, _ = socket.recv_fds(control, 1, 1)
        end = GuestEnd(socket.socket(fileno=fds[0]), control)
        self._ends.append(end)
        return end

    async def attach(self) -> GuestChannel:
        return await attach(self.rundir)

    def state(self) -> ShimState:
        return read_state(self.rundir)

    async def ended(self, shim: ShimProcess) -> ShimState:
        await asyncio.wait_for(shim.wait(), DEADLINE_S)
        return self.state()

    async def records(self) -> list[LogRecord]:
        return await LogReader(self.log).tail(10_000)

    def vmm_log(self) -> str:
        return (self.rundir / "vmm.log").read_text()

    async def aclose(self) -> None:
        for shim in self._shims:
            shim.kill()
            await shim.wait()
        state = self.state()
        if state.record is not None:
            state.record.child.kill()
        for end in self._ends:
            end.close()
        self._control.close()


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    try:
        binaries.find("midge-shim")
    except binaries.BinaryMissing as error:
        pytest.skip(str(error))
    # Not tmp_path: the paths of sockets have to be short.
    directory = Path(tempfile.mkdtemp(prefix="midge-shim-"))
    machine = Machine(directory)
    try:
        yield machine
    finally:
        await machine.aclose()
        shutil.rmtree(directory)
