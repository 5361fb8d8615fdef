"""Frames of the guest protocol: constants, encoder, decoder. No I/O.

The specification is docs/guest-protocol.md; ``tests/vectors/frames.json`` holds what this module and the Rust
crate ``frame`` must agree on byte by byte. The payloads are in `midge.guest.messages`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

from midge.guest.errors import ProtocolError

MAGIC = b"MDG1"
VERSION = 1
HEADER = struct.Struct("<4sBBHII")
HEADER_BYTES = HEADER.size

FRAME_PAYLOAD_MAX = 65_536  # bytes of one frame
MESSAGE_MAX = 1_048_576  # bytes of one JSON object over all its frames
RESYNC_BYTES_MAX = 262_144  # bytes dropped in a row before a stream counts as broken
WINDOW_BYTES = 262_144  # bytes of exec output, or of stdin, that may be under way

_MAX_STREAM = 0xFFFF_FFFF


class FrameType(IntEnum):
    """Host to guest below 0x40, guest to host below 0x80, worker and shim from there on."""

    HELLO = 0x01
    CONFIGURE = 0x02
    RUN = 0x03
    SIGNAL = 0x04
    EXEC = 0x05
    STDIN = 0x06
    RESIZE = 0x07
    EXEC_SIGNAL = 0x08
    FILE = 0x09
    FILE_DATA = 0x0A
    STATS = 0x0B
    PS = 0x0C
    QUIESCE = 0x0D
    RESUME = 0x0E
    SHUTDOWN = 0x0F
    EXIT_ACK = 0x10
    WINDOW = 0x11
    WARM = 0x12

    HELLO_ACK = 0x41
    CONFIGURED = 0x42
    RUNNING = 0x43
    EXIT = 0x44
    EXEC_STARTED = 0x45
    EXEC_OUTPUT = 0x46
    EXEC_EXIT = 0x47
    FILE_DONE = 0x48
    STATS_REPLY = 0x49
    PS_REPLY = 0x4A
    QUIESCED = 0x4B
    RESUMED = 0x4C
    WARMED = 0x4D
    STDIN_WINDOW = 0x4E
    ERROR = 0x4F
    OUTPUT = 0x50

    SHIM_STATE = 0x81
    SHIM_ENDED = 0x82
    SHIM_KILL = 0x83
    SHIM_QUIT = 0x84
    SHIM_LOG = 0x85


class Flag(IntFlag):
    """EOF and STDERR belong to data types, MORE to JSON types."""

    EOF = 0x01
    STDERR = 0x02
    MORE = 0x80


# Payload is bytes, so MORE has no meaning on them.
DATA_TYPES = frozenset(
    {
        FrameType.STDIN,
        FrameType.FILE_DATA,
        FrameType.EXIT_ACK,
        FrameType.WINDOW,
        FrameType.EXEC_OUTPUT,
        FrameType.STDIN_WINDOW,
        FrameType.OUTPUT,
    }
)


class Frame(NamedTuple):
    """One frame. `type` is an int: a peer may know types we do not."""

    type: int
    flags: int
    stream: int
    payload: bytes


def type_name(number: int) -> str:
    """The name of a frame type for messages, in lower case; hexadecimal if unknown."""
    try:
        return FrameType(number).name.lower()
    except ValueError:
        return f"type 0x{number:02x}"


def encode_frame(type_: int, stream: int = 0, payload: bytes | memoryview = b"", flags: int = 0) -> bytes:
    """One frame as bytes.

    Raises:
        ProtocolError: the payload is over `FRAME_PAYLOAD_MAX` or the stream is no u32.
    """
    if len(payload) > FRAME_PAYLOAD_MAX:
        raise ProtocolError(f"{type_name(type_)} frame of {len(payload)} bytes is over {FRAME_PAYLOAD_MAX}")
    if not 0 <= stream <= _MAX_STREAM:
        raise ProtocolError(f"stream {stream} is out of range")
    return b"".join((HEADER.pack(MAGIC, type_, flags, 0, stream, len(payload)), payload))


def encode_message(type_: int, stream: int, body: bytes) -> bytes:
    """A JSON object as one frame, or as several with MORE.

    Raises:
        ProtocolError: it is over `MESSAGE_MAX`.
    """
    if len(body) <= FRAME_PAYLOAD_MAX:
        return encode_frame(type_, stream, body)
    if len(body) > MESSAGE_MAX:
        raise ProtocolError(f"{type_name(type_)} message of {len(body)} bytes is over {MESSAGE_MAX}")
    pieces = list(split(body))
    head = [encode_frame(type_, stream, piece, Flag.MORE) for piece in pieces[:-1]]
    return b"".join([*head, encode_frame(type_, stream, pieces[-1])])


def encode_data(type_: int, stream: int, data: bytes, *, eof: bool) -> bytes:
    """Bytes as data frames; with `eof` the last of them, which may be empty, carries EOF."""
    pieces = list(split(data)) or ([memoryview(b"")] if eof else [])
    last = len(pieces) - 1
    return b"".join(
        encode_frame(type_, stream, piece, Flag.EOF if eof and index == last else 0)
        for index, piece in enumerate(pieces)
    )


def split(data: bytes) -> Iterator[memoryview]:
    """Pieces that fit into one frame each."""
    view = memoryview(data)
    for start in range(0, len(view), FRAME_PAYLOAD_MAX):
        yield view[start : start + FRAME_PAYLOAD_MAX]


def encode_window(type_: int, stream: int, credit_bytes: int) -> bytes:
    """WINDOW or STDIN_WINDOW."""
    return encode_frame(type_, stream, credit_bytes.to_bytes(4, "little"))


def decode_window(frame: Frame) -> int:
    """Bytes a WINDOW or STDIN_WINDOW adds.

    Raises:
        ProtocolError: it is no u32.
    """
    if len(frame.payload) != 4:
        raise ProtocolError(f"{type_name(frame.type)} of {len(frame.payload)} bytes instead of 4")
    return int.from_bytes(frame.payload, "little")


class FrameDecoder:
    """Bytes in, whole frames out.

    After a wrong magic or an impossible length it drops bytes up to the next plausible header. It holds less
    than one frame and what was fed last.

    Attributes:
        skipped_bytes: all it ever dropped.
    """

    def __init__(self) -> None:
        self.skipped_bytes = 0
        self._buffer = bytearray()
        self._skipped_in_a_row = 0
        self._broken = False

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Nothing happens before the iteration.

        Raises:
            ProtocolError: more than `RESYNC_BYTES_MAX` in a row made no sense, now or earlier.
        """
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while True:
                position, header = self._next_header(position)
                if header is None:
                    return
                _, type_, flags, _, stream, length = header
                begin = position + HEADER_BYTES
                end = begin + length
                if len(buffer) < end:
                    return
                payload = bytes(memoryview(buffer)[begin:end])
                position = end
                self._skipped_in_a_row = 0
                yield Frame(type_, flags, stream, payload)
        finally:
            del buffer[:position]

    def _next_header(self, position: int) -> tuple[int, tuple[bytes, int, int, int, int, int] | None]:
        """The next plausible header and where it begins; None as long as there is no whole one."""
        buffer = self._buffer
        while True:
            found = position if buffer.startswith(MAGIC, position) else buffer.find(MAGIC, position)
            if found < 0:
                found = len(buffer) - _magic_prefix_at_end(buffer, position)
            self._skip(found - position)
            position = found
            if len(buffer) < position + HEADER_BYTES:
                return position, None
            header = HEADER.unpack_from(buffer, position)
            if header[-1] <= FRAME_PAYLOAD_MAX:
                return position, header
            self._skip(1)
            position += 1

    def _skip(self, count: int) -> None:
        self.skipped_bytes += count
        self._skipped_in_a_row += count
        if self._broken or self._skipped_in_a_row > RESYNC_BYTES_MAX:
            self._broken = True
            self._buffer.clear()
            raise ProtocolError(
                f"guest stream is broken: no frame in {RESYNC_BYTES_MAX} bytes",
                hint="stop the machine and start it again",
            )


def _magic_prefix_at_end(buffer: bytearray, position: int) -> int:
    """How many bytes at the end may be the beginning of a magic."""
    for length in (3, 2, 1):
        if len(buffer) - position >= length and buffer.endswith(MAGIC[:length]):
            return length
    return 0


class MessageError(ProtocolError):
    """A message that cannot be put together; the stream of frames itself is intact."""


class MessageTooLong(MessageError):
    """The rest of the message is swallowed."""


class MessageInterrupted(MessageError):
    """Another message began before this one was complete. Its frame has to be given again, as its first."""


class MessageAssembler:
    """Puts JSON messages of several frames together, one message at a time."""

    def __init__(self) -> None:
        self._key: tuple[int, int] | None = None
        self._bytes = bytearray()
        self._too_long = False

    def add(self, frame: Frame) -> bytes | None:
        """The whole payload once its last frame is there, else None.

        Raises:
            MessageError: the message is lost.
        """
        key = (frame.type, frame.stream)
        more = bool(frame.flags & Flag.MORE)
        if self._key is None:
            if not more:
                return frame.payload
            self._key = key
        elif self._key != key:
            self.reset()
            raise MessageInterrupted("another message began before this one was complete")
        first_excess = not self._too_long and len(self._bytes) + len(frame.payload) > MESSAGE_MAX
        if first_excess:
            self._too_long = True
            self._bytes.clear()
        elif not self._too_long:
            self._bytes += frame.payload
        complete = None if more or self._too_long else bytes(self._bytes)
        if not more:
            self.reset()
        if first_excess:
            raise MessageTooLong(f"{type_name(frame.type)} message is over {MESSAGE_MAX} bytes")
        return complete

    def reset(self) -> None:
        """Forgets a message under way, at the start of a session."""
        self._key = None
        self._bytes.clear()
        self._too_long = False
