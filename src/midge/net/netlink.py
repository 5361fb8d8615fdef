"""Netlink on a plain socket: messages, attributes, batches and dumps.

Why not a library: the start path sends two to four messages, and the one in reach (pyroute2 0.9) takes 0.7 ms for
each, 240 ms to import, and cannot run on uvloop. The format is small: a header of 16 bytes, a fixed structure, then
attributes of (length, type, value) padded to four bytes (linux/netlink.h).

A socket stays in the network namespace its thread was in when it was opened, whatever the thread does later.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300

NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")

# Bytes of one receive; the kernel fills dump replies up to 32 KiB.
_RECEIVE_BYTES = 1 << 16
# Seconds until a silent kernel counts as broken: configuring waits for RTNL, which a busy host holds for long.
_REPLY_TIMEOUT_S = 30
# Messages in one send; the reply to each must fit the socket's receive buffer (about 200 KiB).
BATCH_MESSAGES_MAX = 64


@dataclass(frozen=True, slots=True)
class Message:
    """One request: its type, its flags (REQUEST and ACK are added), and what follows the header."""

    kind: int
    flags: int
    payload: bytes


class NetlinkError(OSError):
    """The kernel refused one message; `strerror` carries its own explanation where it gave one."""


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def nested(kind: int, *children: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(children))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type, flags stripped; of a repeated type the last. A cut-off one ends the list."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < _ATTRIBUTE.size or offset + size > len(data):
            break
        found[kind & _NLA_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + size]
        offset += size + (-size % 4)
    return found


class NetlinkSocket:
    """A blocking request/reply socket; not for two threads at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sequence = 0

    @classmethod
    def open(cls, protocol: int = NETLINK_ROUTE) -> NetlinkSocket:
        """A socket in the calling thread's network namespace."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        sock.settimeout(_REPLY_TIMEOUT_S)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            try:
                sock.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                pass  # kernels before 4.20 lack one or the other; error texts and filters get coarser
        return cls(sock)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def request(self, *messages: Message) -> None:
        """Sends a batch in one system call and waits until the kernel has done all of it.

        The kernel goes on after a refused message; the first refusal is raised when the batch is through.
        Raises: NetlinkError.
        """
        errors = [error for error in self.try_all(messages) if error is not None]
        if errors:
            raise errors[0]

    def try_all(self, messages: Sequence[Message]) -> list[NetlinkError | None]:
        """As `request`, with a verdict for each message."""
        verdicts: list[NetlinkError | None] = []
        for start in range(0, len(messages), BATCH_MESSAGES_MAX):
            verdicts += self._batch(messages[start : start + BATCH_MESSAGES_MAX])
        return verdicts

    def get(self, message: Message) -> bytes:
        """The one object a request asks for: what follows the header of its answer. Raises: NetlinkError."""
        self._sequence += 1
        sequence = self._sequence
        self._socket.send(_encode(message, NLM_F_REQUEST, sequence))
        while True:
            for kind, flags, answered, payload in self._receive():
                if answered != sequence:
                    continue
                if kind == _NLMSG_ERROR and (error := _verdict(flags, payload)) is not None:
                    raise error
                return payload

    def dump(self, message: Message) -> Iterator[tuple[int, bytes]]:
        """The objects a dump request lists, as (message type, payload). Raises: NetlinkError."""
        self._sequence += 1
        sequence = self._sequence
        self._socket.send(_encode(message, NLM_F_REQUEST | NLM_F_DUMP, sequence))
        while True:
            for kind, flags, answered, payload in self._receive():
                if answered != sequence:
                    continue
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    if (error := _verdict(flags, payload)) is not None:
                        raise error
                    return
                yield kind, payload

    def _batch(self, messages: Sequence[Message]) -> list[NetlinkError | None]:
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(
            b"".join(
                _encode(message, NLM_F_REQUEST | NLM_F_ACK, first + n) for n, message in enumerate(messages)
            )
        )
        verdicts: dict[int, NetlinkError | None] = {}
        while len(verdicts) < len(messages):
            for kind, flags, sequence, payload in self._receive():
                if kind == _NLMSG_ERROR and sequence >= first:
                    verdicts[sequence] = _verdict(flags, payload)
        return [verdicts[first + n] for n in range(len(messages))]

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_RECEIVE_BYTES)
        offset = 0
        while offset + _HEADER.size <= len(data):
            size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if size < _HEADER.size:
                break
            yield kind, flags, sequence, data[offset + _HEADER.size : offset + size]
            offset += size + (-size % 4)


def _encode(message: Message, flags: int, sequence: int) -> bytes:
    size = _HEADER.size + len(message.payload)
    header = _HEADER.pack(size, message.kind, message.flags | flags, sequence, 0)
    return header + message.payload + bytes(-size % 4)


def _verdict(flags: int, payload: bytes) -> NetlinkError | None:
    (code,) = _ERRNO.unpack_from(payload) if len(payload) >= _ERRNO.size else (0,)
    if code == 0:
        return None
    explanation = ""
    if flags & _NLM_F_ACK_TLVS:
        # With CAP_ACK the refused message is cut to its header; without, it is repeated whole.
        (size,) = struct.unpack_from("=I", payload, _ERRNO.size)
        skipped = _HEADER.size if flags & _NLM_F_CAPPED else size
        attributes = parse_attributes(payload[_ERRNO.size + skipped + (-skipped % 4) :])
        explanation = attributes.get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    return NetlinkError(-code, explanation or os.strerror(-code))
