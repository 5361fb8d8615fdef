"""A shim with a guest behind it, in the test's own process: what `GuestChannel.connect` finds at a path.

async with FakeGuest(tmp_path / "guest.sock", GuestScript(exit=GuestExit(exit_code=3))) as guest:
    channel = await GuestChannel.connect(guest.path)
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Self, cast

from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.protocol import Frame, FrameType
from midge.testing.fake_init import FakeInit, GuestScript

__all__ = ["FakeGuest", "GuestScript"]


class FakeGuest:
    """Listens at `path` from `start` on and behaves as docs/guest-protocol.md says of shim and init together.

    Attributes:
        init: what the guest has been told.
        output: what the main process has written, by stream name; a shim would have put it into the log.
        delay_s: pause before each answer of the guest.
        killed: SHIM_KILL has come.
    """

    def __init__(self, path: Path, script: GuestScript | None = None, *, delay_s: float = 0.0) -> None:
        self.path = path
        self.init = FakeInit(script)
        self.output: list[tuple[str, bytes]] = []
        self.delay_s = delay_s
        self.killed = False
        self.ended: m.Ended | None = None
        self.exit: m.GuestExit | None = None
        self._server: asyncio.Server | None = None
        self._worker: _Attached | None = None
        self._heard = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Attached(self), str(self.path))

    async def aclose(self) -> None:
        """Cuts the worker off and stops listening. Repeatable."""
        if self._server is not None:
            self._server.close()
            self._cut_off()
            await self._server.wait_closed()
            self._server = None

    async def wait_frame(self, type_: FrameType) -> Frame:
        """The first frame of a type that the guest has received, once it has."""
        while True:
            for frame in self.init.received:
                if frame.type == type_:
                    return frame
            self._heard.clear()
            await self._heard.wait()

    def write(self, data: bytes) -> None:
        """Anything at all to the worker, as if the guest had sent it."""
        if self._worker is not None:
            self._worker.write(data)

    def exit_main(self, ended: m.GuestExit) -> None:
        """The main process ends by itself."""
        self._from_guest(self.init.exit_main(ended))

    def end(self, ended: m.Ended) -> None:
        """The VMM or container ends: the worker is told, and nobody listens any more."""
        self.ended = ended
        self.write(p.encode_message(FrameType.SHIM_ENDED, 0, m.encode(ended)))
        self._cut_off()
        if self._server is not None:
            self._server.close()

    def drop_worker(self) -> None:
        """Cuts the worker off, as a shim does with one that does not read."""
        self._cut_off()

    def on_attached(self, worker: _Attached) -> None:
        self._cut_off()
        self._worker = worker
        state = m.ShimState(
            shim_pid=os.getpid(),
            child_pid=1,
            child_start_time=0,
            exit=self.exit,
            ended=self.ended,
            log_bytes=0,
        )
        worker.write(p.encode_message(FrameType.SHIM_STATE, 0, m.encode(state)))

    def on_detached(self, worker: _Attached) -> None:
        if self._worker is worker:
            self._worker = None

    def on_frame(self, frame: Frame) -> None:
        if frame.type == FrameType.SHIM_KILL:
            self.killed = True
            self.end(m.Ended(signal=9))
        elif frame.type < FrameType.HELLO_ACK:
            answer = self.init.on_frame(frame)
            self._heard.set()
            if self.delay_s and answer:
                asyncio.get_running_loop().call_later(self.delay_s, self._from_guest, answer)
            else:
                self._from_guest(answer)

    def _from_guest(self, data: bytes) -> None:
        """The shim's part: output is kept, an exit is recorded and acknowledged, the rest goes to the worker."""
        for frame in p.FrameDecoder().feed(data):
            if frame.type == FrameType.OUTPUT:
                self.output.append(("stderr" if frame.flags & p.Flag.STDERR else "stdout", frame.payload))
                continue
            if frame.type == FrameType.EXIT:
                self.exit = m.decode(m.GuestExit, frame.payload)
                self.init.on_frame(Frame(FrameType.EXIT_ACK, 0, 0, b""))
            self.write(p.encode_frame(frame.type, frame.stream, frame.payload, frame.flags))

    def _cut_off(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class _Attached(asyncio.Protocol):
    def __init__(self, guest: FakeGuest) -> None:
        self._guest = guest
        self._decoder = p.FrameDecoder()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._guest.on_attached(self)

    def data_received(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self._guest.on_frame(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._guest.on_detached(self)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
