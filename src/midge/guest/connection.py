"""One unix socket to a shim: frames in, bytes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from midge.guest.errors import ChannelLost, ProtocolError
from midge.guest.protocol import Frame, FrameDecoder

# Bytes waiting to be written above which `drain` waits: a few frames, so that one large file does not delay a signal.
WRITE_BUFFER_BYTES = 262_144


class Connection(asyncio.Protocol):
    """Decodes what arrives and hands each frame to `on_frame` at once, in the event loop.

    It always reads: whoever buffers what `on_frame` gets has to bound it (the windows of the protocol do).
    """

    def __init__(self, on_frame: Callable[[Frame], None], on_lost: Callable[[ChannelLost], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._made = False
        self._writable = asyncio.Event()
        self._closed = asyncio.Event()
        self._broken: ProtocolError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made = True
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._broken is not None:
            return
        try:
            for frame in self._decoder.feed(data):
                self._on_frame(frame)
        except ProtocolError as error:
            self._broken = error
            if self._transport is not None:
                self._transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._writable.set()
        self._closed.set()
        lost = ChannelLost("connection to the shim was lost", hint="attach again")
        lost.__cause__ = self._broken or exc
        self._on_lost(lost)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Queues bytes.

        Raises:
            ChannelLost: the connection has ended.
        """
        if self._transport is None or self._transport.is_closing():
            raise ChannelLost("connection to the shim is closed", hint="attach again")
        self._transport.write(data)

    async def drain(self) -> None:
        """Waits until little enough is queued to queue more."""
        await self._writable.wait()

    async def aclose(self) -> None:
        """Sends what is queued, if that takes no waiting, and closes. Repeatable."""
        if not self._made:
            return
        if self._transport is not None:
            if self._writable.is_set():
                self._transport.close()
            else:
                self._transport.abort()
        await self._closed.wait()
