"""What is known and under way over one connection: the state behind `GuestChannel`. No tasks, no I/O of its own.

Frames are handled in the event loop as they arrive. What a guest gets wrong fails the request it belongs to, never
the channel: other users of it go on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import TypeVar

from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.connection import Connection
from midge.guest.errors import ChannelLost, GuestRefused, ProtocolError
from midge.guest.exec import ExecSession
from midge.guest.protocol import Frame, FrameType
from midge.guest.replies import PendingReplies, Reply

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

REQUESTS_MAX = 1_024  # requests that wait for an answer, those given up included
EXECS_MAX = 256  # processes at the same time over one channel


class Session:
    """One connection's state.

    Attributes:
        guest: the answer to HELLO; None before, and after QUIESCE.
        shim: the shim's first frame.
        exit, ended: how the main process and the VMM ended, once known.
        lost: set for good when the connection has ended.
    """

    def __init__(self) -> None:
        self.connection = Connection(self.on_frame, self.on_lost)
        self.guest: m.HelloAck | None = None
        self.shim: m.ShimState | None = None
        self.exit: m.GuestExit | None = None
        self.ended: m.Ended | None = None
        self.lost: ChannelLost | None = None
        self._assembler = p.MessageAssembler()
        self._replies = PendingReplies()
        self._execs: dict[int, ExecSession] = {}
        self._next_stream = 1
        self._nonce: str | None = None
        self._changed = asyncio.Event()

    def send(self, data: bytes) -> None:
        """Queues whole frames.

        Raises:
            ChannelLost: the connection has ended.
        """
        if self.lost is not None:
            raise self.lost
        self.connection.write(data)

    async def drain(self) -> None:
        await self.connection.drain()

    def expect(self, request: FrameType, stream: int = 0) -> Reply:
        """A future for the answer to a request about to be sent.

        Raises:
            GuestRefused: too many wait already.
        """
        if len(self._replies) >= REQUESTS_MAX:
            raise _too_many(f"{REQUESTS_MAX} requests wait for the guest", request)
        return self._replies.expect(request, stream)

    def new_stream(self) -> int:
        stream = self._next_stream
        self._next_stream += 1
        return stream

    def new_exec(self, request: m.ExecRequest) -> ExecSession:
        """An exec that is not started yet.

        Raises:
            GuestRefused: too many run already.
        """
        if len(self._execs) >= EXECS_MAX:
            raise _too_many(f"{EXECS_MAX} execs run already", FrameType.EXEC)
        stream = self.new_stream()
        session = ExecSession(self, stream, request, self._forget_exec)
        self._execs[stream] = session
        return session

    def hello(self, *, resume: bool = False) -> tuple[bytes, Reply]:
        """Ends what belongs to the old session; the frame that opens a new one, and its answer."""
        self.end(ChannelLost("the session with the guest was opened anew"))
        self._nonce = secrets.token_hex(16)
        self._next_stream = 1
        self._assembler.reset()
        body = m.encode(m.Hello(version=p.VERSION, nonce=self._nonce, resume=resume))
        return p.encode_message(FrameType.HELLO, 0, body), self.expect(FrameType.HELLO)

    def end(self, error: Exception) -> None:
        """Nothing under way will be answered any more."""
        self.guest = None
        self._replies.fail_all(error)
        for session in list(self._execs.values()):
            session.fail(error)
        self._execs.clear()

    async def until(self, value: Callable[[], _T | None], *, unless_ended: bool = False) -> _T:
        """Waits for a value to be known.

        Raises:
            ChannelLost: the connection ended before, or, with `unless_ended`, the machine.
        """
        while (found := value()) is None:
            if unless_ended and self.ended is not None:
                raise ChannelLost("machine ended without reporting its exit", ended=self.ended)
            if self.lost is not None:
                raise self.lost
            self._changed.clear()
            await self._changed.wait()
        return found

    def on_lost(self, error: ChannelLost) -> None:
        self.lost = error
        self.end(error)
        self._changed.set()

    def on_frame(self, frame: Frame) -> None:
        """One frame from the shim."""
        try:
            payload = frame.payload if frame.type in p.DATA_TYPES else self._assembler.add(frame)
            if payload is not None:
                self._dispatch(frame, payload)
        except p.MessageInterrupted:
            self.on_frame(frame)
        except (ProtocolError, GuestRefused) as error:
            self._on_fault(frame, error)

    def _dispatch(self, frame: Frame, payload: bytes) -> None:
        match frame.type:
            case FrameType.SHIM_STATE:
                self.shim = m.decode(m.ShimState, payload, what="shim_state")
                self.exit, self.ended = self.shim.exit, self.shim.ended
                self._changed.set()
            case FrameType.SHIM_ENDED:
                self.ended = m.decode(m.Ended, payload, what="shim_ended")
                self._changed.set()
            case FrameType.EXIT:
                self.exit = self.exit or m.decode(m.GuestExit, payload, what="exit")
                self._changed.set()
            case FrameType.HELLO_ACK:
                self._on_hello_ack(m.decode(m.HelloAck, payload, what="hello_ack"), payload)
            case FrameType.ERROR if frame.stream not in self._execs:
                self._on_error(frame.stream, m.decode(m.ErrorReply, payload, what="error"))
            case _ if self.guest is None:
                pass  # of an earlier session
            case _ if (session := self._execs.get(frame.stream)) is not None:
                session.on_frame(frame.type, frame.flags, payload)
            case _:
                self._replies.on_reply(frame.type, frame.stream, payload)

    def _on_hello_ack(self, ack: m.HelloAck, payload: bytes) -> None:
        if self._nonce is not None and ack.nonce == self._nonce:
            self.guest = ack
            self._nonce = None
            self._replies.on_reply(FrameType.HELLO_ACK, 0, payload)

    def _on_error(self, stream: int, reply: m.ErrorReply) -> None:
        if reply.code == "channel_broken":
            self.end(GuestRefused(reply.message, guest_code=reply.code, during=reply.during))
        elif self.guest is None and reply.during.lower() != "hello":
            pass  # of an earlier session
        elif not self._replies.on_error(stream, reply):
            _log.warning("guest reported %s during %s: %s", reply.code, reply.during, reply.message)

    def _on_fault(self, frame: Frame, error: Exception) -> None:
        session = self._execs.get(frame.stream)
        if session is not None:
            session.fail(error)
        elif not self._replies.on_fault(frame.type, frame.stream, error):
            _log.warning("guest sent a malformed %s frame", p.type_name(frame.type), exc_info=error)

    def _forget_exec(self, stream: int) -> None:
        self._execs.pop(stream, None)


def _too_many(message: str, request: FrameType) -> GuestRefused:
    return GuestRefused(message, guest_code="too_many", during=p.type_name(request))
