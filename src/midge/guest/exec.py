"""A further process in a machine: its input, output, terminal and end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.errors import ChannelLost, ExecEnded, GuestRefused, ProtocolError
from midge.guest.protocol import Flag, Frame, FrameType

# Consumed output is granted again in pieces of this size: few WINDOW frames, and never less than half a window open.
WINDOW_GRANT_BYTES = p.WINDOW_BYTES // 4
# Pieces of output are joined up to this size: a guest may fill its window with frames of one byte.
CHUNK_BYTES_MAX = 16_384

StreamName = Literal["stdout", "stderr"]


class FrameSink(Protocol):
    """What a session needs of its channel."""

    def send(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A collected exec.

    truncated: output beyond the limit was thrown away.
    timed_out: it was killed, by the guest or by the host, because it ran too long.
    """

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    timed_out: bool = False
    oom_killed: bool = False


class ExecSession:
    """One running exec; made by `GuestChannel.exec`. Leaving its ``async with`` kills what still runs.

    One task may iterate over the output while others write, resize and signal. Output that nobody takes stops the
    process once `WINDOW_BYTES` of it are under way.
    """

    def __init__(
        self, sink: FrameSink, stream: int, request: m.ExecRequest, on_done: Callable[[int], None]
    ) -> None:
        self.stream = stream
        self.pid = 0
        self._request = request
        self._sink = sink
        self._on_done = on_done
        self._chunks: deque[tuple[StreamName, bytearray]] = deque()
        self._buffered_bytes = 0
        self._ungranted_bytes = 0
        self._stdin_window = p.WINDOW_BYTES
        self._stdin_open = request.stdin or request.tty
        self._started = False
        self._discard = False
        self._exit: m.ExecExit | None = None
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._stdin_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Starts the process.

        Raises:
            GuestRefused: the guest could not start it.
            ChannelLost: the channel ended.
        """
        body = m.encode(self._request)
        try:
            self._sink.send(p.encode_message(FrameType.EXEC, self.stream, body))
            while not self._started:
                self._raise_error()
                await self._wait()
        except BaseException:
            self._abandon()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abandon()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[StreamName, bytes]:
        """The next piece of output; ends when the process has ended and all is read."""
        while not self._chunks:
            self._raise_error()
            if self._exit is not None:
                raise StopAsyncIteration
            await self._wait()
        name, data = self._chunks.popleft()
        self._buffered_bytes -= len(data)
        self._grant(len(data))
        return name, bytes(data)

    async def exit(self) -> m.ExecExit:
        """Waits for the end. Output not read by then is thrown away."""
        self._discard_output()
        while self._exit is None:
            self._raise_error()
            await self._wait()
        return self._exit

    async def write_stdin(self, data: bytes) -> None:
        """Sends input, as fast as the process takes it.

        Raises:
            ExecEnded: it has ended, or its standard input is closed.
        """
        view = memoryview(data)
        async with self._stdin_lock:
            while view:
                self._raise_error()
                if self._exit is not None or not self._stdin_open:
                    raise ExecEnded("standard input of the exec is closed")
                if not self._stdin_window:
                    await self._wait()
                    continue
                piece = view[: min(self._stdin_window, p.FRAME_PAYLOAD_MAX)]
                self._stdin_window -= len(piece)
                self._sink.send(p.encode_frame(FrameType.STDIN, self.stream, piece))
                view = view[len(piece) :]
                await self._sink.drain()

    async def close_stdin(self) -> None:
        """End of file on standard input. Repeatable."""
        async with self._stdin_lock:
            if self._stdin_open and not self._is_over:
                self._stdin_open = False
                self._sink.send(p.encode_frame(FrameType.STDIN, self.stream, b"", Flag.EOF))

    async def resize(self, rows: int, cols: int) -> None:
        """New size of the terminal; nothing if it has ended."""
        self._send_message(FrameType.RESIZE, m.Resize(rows=rows, cols=cols))

    async def signal(self, number: int) -> None:
        """A signal for the process group; nothing if it has ended."""
        self._send_message(FrameType.EXEC_SIGNAL, m.Signal(signal=number))

    def on_frame(self, type_: int, flags: int, payload: bytes) -> None:
        """A frame or assembled message of this stream, from the channel."""
        match type_:
            case FrameType.EXEC_OUTPUT:
                self._on_output("stderr" if flags & Flag.STDERR else "stdout", payload)
            case FrameType.EXEC_STARTED:
                self.pid = m.decode(m.ExecStarted, payload, what="exec_started").pid
                self._started = True
            case FrameType.EXEC_EXIT:
                self._exit = m.decode(m.ExecExit, payload, what="exec_exit")
                self._on_done(self.stream)
            case FrameType.STDIN_WINDOW:
                credit = p.decode_window(Frame(type_, flags, self.stream, payload))
                self._stdin_window = min(self._stdin_window + credit, p.WINDOW_BYTES)
            case FrameType.ERROR:
                reply = m.decode(m.ErrorReply, payload, what="error")
                if reply.during not in ("exec_signal", "resize", "stdin", "window"):
                    raise GuestRefused(reply.message, guest_code=reply.code, during=reply.during)
            case _:
                raise ProtocolError(f"{p.type_name(type_)} on the stream of an exec")
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """The channel ended, or the guest broke the protocol on this stream or refused something."""
        if not self._is_over:
            self._send_message(FrameType.EXEC_SIGNAL, m.Signal(signal=9))
            self._error = error
            self._on_done(self.stream)
        self._changed.set()

    @property
    def _is_over(self) -> bool:
        return self._exit is not None or self._error is not None

    def _on_output(self, name: StreamName, data: bytes) -> None:
        if not data:
            return
        if self._discard:
            self._grant(len(data))
            return
        self._buffered_bytes += len(data)
        if self._buffered_bytes > p.WINDOW_BYTES:
            raise ProtocolError("guest sent more exec output than it was granted")
        if self._chunks:
            last_name, last = self._chunks[-1]
            if last_name == name and len(last) + len(data) <= CHUNK_BYTES_MAX:
                last += data
                return
        self._chunks.append((name, bytearray(data)))

    def _grant(self, count: int) -> None:
        self._ungranted_bytes += count
        if self._ungranted_bytes >= WINDOW_GRANT_BYTES and not self._is_over:
            grant, self._ungranted_bytes = self._ungranted_bytes, 0
            self._send(p.encode_window(FrameType.WINDOW, self.stream, grant))

    def _discard_output(self) -> None:
        self._discard = True
        self._chunks.clear()
        unread, self._buffered_bytes = self._buffered_bytes, 0
        self._grant(unread)

    def _abandon(self) -> None:
        """Kills the process unless it is over; its stream is drained until the guest says that it ended."""
        if not self._is_over:
            self._discard_output()
            self._send_message(FrameType.EXEC_SIGNAL, m.Signal(signal=9))

    def _send_message(self, type_: FrameType, message: m.Message) -> None:
        if not self._is_over:
            self._send(p.encode_message(type_, self.stream, m.encode(message)))

    def _send(self, data: bytes) -> None:
        # A lost channel is told through `fail`, to the one who waits for this exec, and not to whoever sends.
        with contextlib.suppress(ChannelLost):
            self._sink.send(data)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()
