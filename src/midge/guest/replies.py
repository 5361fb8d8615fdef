"""Requests under way, and which answer belongs to which."""

from __future__ import annotations

import asyncio
from collections import deque

from midge.errors import DeadlineExceeded
from midge.guest import messages as m
from midge.guest.errors import GuestRefused
from midge.guest.protocol import FrameType, type_name

REPLY_TYPES = {
    FrameType.HELLO: FrameType.HELLO_ACK,
    FrameType.CONFIGURE: FrameType.CONFIGURED,
    FrameType.RUN: FrameType.RUNNING,
    FrameType.FILE: FrameType.FILE_DONE,
    FrameType.STATS: FrameType.STATS_REPLY,
    FrameType.PS: FrameType.PS_REPLY,
    FrameType.QUIESCE: FrameType.QUIESCED,
    FrameType.RESUME: FrameType.RESUMED,
    FrameType.WARM: FrameType.WARMED,
}
_REQUEST_OF: dict[int, FrameType] = {reply: request for request, reply in REPLY_TYPES.items()}
# An init that cannot send a reply, because it would be too long, names the reply and not the request.
_REQUEST_NAMES = (
    {type_name(request): request for request in REPLY_TYPES}
    | {type_name(reply): request for request, reply in REPLY_TYPES.items()}
    | {"file_data": FrameType.FILE}
)

Reply = asyncio.Future[bytes]


class PendingReplies:
    """Futures of requests, oldest first per type and stream.

    The guest answers each request once, so a waiter that gave up leaves its future in place: its answer is still
    to come, and must not be taken for that of the next one.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[FrameType, int], deque[Reply]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def expect(self, request: FrameType, stream: int = 0) -> Reply:
        """A future for the answer to a request that is about to be sent."""
        future: Reply = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((request, stream), deque()).append(future)
        return future

    def on_reply(self, type_: int, stream: int, payload: bytes) -> bool:
        """Resolves the oldest request this answers; False if nobody asked."""
        future = self._take(_REQUEST_OF.get(type_), stream)
        if future is not None and not future.done():
            future.set_result(payload)
        return future is not None

    def on_fault(self, type_: int, stream: int, error: Exception) -> bool:
        """Fails the oldest request that a malformed reply answers; False if nobody asked."""
        future = self._take(_REQUEST_OF.get(type_), stream)
        if future is not None and not future.done():
            future.set_exception(error)
        return future is not None

    def on_error(self, stream: int, reply: m.ErrorReply) -> bool:
        """Fails the request an ERROR is about; False if nobody asked."""
        future = self._take(_REQUEST_NAMES.get(reply.during.lower()), stream)
        if future is not None and not future.done():
            text = f"guest refused {reply.during}: {reply.message or reply.code}"
            future.set_exception(GuestRefused(text, guest_code=reply.code, during=reply.during))
        return future is not None

    def fail_all(self, error: Exception) -> None:
        """Nobody will answer any more."""
        waiting, self._waiting = self._waiting, {}
        for queue in waiting.values():
            for future in queue:
                if not future.done():
                    future.set_exception(error)

    def _take(self, request: FrameType | None, stream: int) -> Reply | None:
        queue = None if request is None else self._waiting.get((request, stream))
        if request is None or not queue:
            return None
        future = queue.popleft()
        if not queue:
            del self._waiting[request, stream]
        return future


async def answer(future: Reply, what: str, timeout_s: float) -> bytes:
    """The payload of the answer.

    Raises:
        DeadlineExceeded: there was none in time.
        GuestRefused, ChannelLost: as the future says.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await future
    except TimeoutError as error:
        raise DeadlineExceeded(f"guest did not answer {what} within {timeout_s:g} s") from error
