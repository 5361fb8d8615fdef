"""What a machine's owner is told, and in which order it hears it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from midge.errors import Unavailable
from midge.lifecycle.states import Request, State
from midge.machine.spec import ExitStatus
from midge.operations.model import Outcome
from midge.worker.edits import Edit
from midge.worker.operations.context import Context
from midge.worker.record import Machine
from midge.worker.requests import Params
from midge.worker.trace import PhaseTrace

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
    params: Params
    nonce: str
    answer: asyncio.Future[Accepted]
    internal: bool = False
    trace: PhaseTrace = field(default_factory=PhaseTrace)


@dataclass(slots=True)
class Call:
    """A change of the record that runs no operation, in its turn. Answered with the machine after it."""

    edit: Edit
    answer: asyncio.Future[Machine]


@dataclass(slots=True)
class Ended:
    """A run's steps are done, or failed. `attempts` counts failures to write it down, as in `Exit`."""

    context: Context[Any]
    outcome: Outcome
    attempts: int = 0


@dataclass(slots=True)
class Exit:
    """The process of a start has ended."""

    start_id: str
    status: ExitStatus
    attempts: int = 0


@dataclass(slots=True)
class CreateFailed:
    """A create had failed when the last worker died, and its removal had not begun."""

    attempts: int = 0


Report = Ended | Exit | CreateFailed


class Inbox:
    """Reports of the guest and of operations go before requests; requests that must wait are put aside."""

    def __init__(self, machine_id: str) -> None:
        self._id = machine_id
        self._reports: list[Report] = []
        self._asks: list[Ask | Call | None] = []
        self._later: list[Ask] = []
        self._sleeper: asyncio.Future[None] | None = None  # of the one reader, while there is nothing to read

    def __len__(self) -> int:
        return len(self._reports) + len(self._asks) + len(self._later)

    def post(self, message: Ask | Call) -> None:
        """Raises Unavailable when INBOX_MAX requests wait."""
        if len(self._asks) + len(self._later) >= INBOX_MAX:
            raise Unavailable(
                f"machine {self._id}: more than {INBOX_MAX} requests wait", hint="try again later"
            )
        self._asks.append(message)
        self._wake()

    def post_first(self, message: Ask) -> None:
        """What the worker itself wants next; never refused."""
        self._asks.insert(0, message)
        self._wake()

    def report(self, message: Report) -> None:
        self._reports.append(message)
        self._wake()

    def poke(self) -> None:
        """Wakes the owner to look whether it is still needed."""
        self._asks.append(None)
        self._wake()

    def put_aside(self, message: Ask) -> None:
        self._later.append(message)

    def bring_back(self) -> None:
        """The operation that was in the way has ended."""
        self._asks.extend(self._later)
        self._later.clear()

    def drop_reports(self, context: Context[Any]) -> None:
        """Forgets the end of a run that was superseded."""
        self._reports = [r for r in self._reports if not (isinstance(r, Ended) and r.context is context)]

    async def get(self) -> Report | Ask | Call | None:
        """The next message; None after a `poke`."""
        while not (self._reports or self._asks):
            self._sleeper = asyncio.get_running_loop().create_future()
            await self._sleeper
        return self._reports.pop(0) if self._reports else self._asks.pop(0)

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

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
