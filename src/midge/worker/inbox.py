"""What a machine's owner is told, and in which order it hears it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from midge.errors import Unavailable
from midge.lifecycle.states import Request, State
from midge.machine.spec import ExitStatus
from midge.operations.model import Outcome
from midge.worker.verbs.base import Context

if TYPE_CHECKING:
    from midge.worker.owner import Owner

INBOX_MAX = 256  # requests waiting for one machine; more are refused


@dataclass(slots=True)
class Accepted:
    """A request has been taken. `done` resolves when its operation has ended, with its error if it failed."""

    previous: State
    done: asyncio.Future[None] | None


@dataclass(slots=True)
class Ask:
    """A request from outside, or with `internal` one that follows from the machine's own fate."""

    request: Request
    params: dict[str, Any]
    nonce: str
    answer: asyncio.Future[Accepted]
    internal: bool = False


@dataclass(slots=True)
class Call:
    """A short change of the record, in its turn."""

    action: Callable[[Owner], Awaitable[Any]]
    answer: asyncio.Future[Any]


@dataclass(slots=True)
class Ended:
    """A run's steps are done, or failed. `attempts` counts failures to write it down, as in `Exit`."""

    context: Context
    outcome: Outcome
    attempts: int = 0


@dataclass(slots=True)
class Exit:
    """The process of a start has ended."""

    start_id: str
    status: ExitStatus
    attempts: int = 0


Report = Ended | Exit


class Inbox:
    """Reports of the guest and of operations go before requests; requests that must wait are put aside."""

    def __init__(self, machine_id: str) -> None:
        self._id = machine_id
        self._reports: deque[Report] = deque()
        self._asks: deque[Ask | Call | None] = deque()
        self._later: deque[Ask] = deque()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._reports) + len(self._asks) + len(self._later)

    def post(self, message: Ask | Call) -> None:
        """Raises Unavailable when INBOX_MAX requests wait."""
        if len(self._asks) + len(self._later) >= INBOX_MAX:
            raise Unavailable(
                f"machine {self._id}: more than {INBOX_MAX} requests wait", hint="try again later"
            )
        self._asks.append(message)
        self._wake.set()

    def post_first(self, message: Ask) -> None:
        """What the worker itself wants next; never refused."""
        self._asks.appendleft(message)
        self._wake.set()

    def report(self, message: Report) -> None:
        self._reports.append(message)
        self._wake.set()

    def poke(self) -> None:
        """Wakes the owner to look whether it is still needed."""
        self._asks.append(None)
        self._wake.set()

    def put_aside(self, message: Ask) -> None:
        self._later.append(message)

    def bring_back(self) -> None:
        """The operation that was in the way has ended."""
        self._asks.extend(self._later)
        self._later.clear()

    def drop_reports(self, context: Context) -> None:
        """Forgets the end of a run that was superseded."""
        kept = [r for r in self._reports if not (isinstance(r, Ended) and r.context is context)]
        self._reports = deque(kept)

    async def get(self) -> Report | Ask | Call | None:
        """The next message; None after a `poke`."""
        while True:
            if self._reports:
                return self._reports.popleft()
            if self._asks:
                return self._asks.popleft()
            self._wake.clear()
            await self._wake.wait()

    def refuse_all(self, error: Exception) -> None:
        for waiting in [*self._asks, *self._later]:
            if waiting is not None and not waiting.answer.done():
                waiting.answer.set_exception(error)
        self._asks.clear()
        self._later.clear()


def fail(done: asyncio.Future[None], error: BaseException) -> None:
    """Ends the wait for an operation. Nobody has to be waiting."""
    if not done.done():
        done.set_exception(error)
        done.exception()


def seen(answer: asyncio.Future[Accepted]) -> None:
    """Marks an exception as looked at: nobody waits for this answer."""
    if not answer.cancelled():
        answer.exception()
