"""Steps, operations, and the record of one run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

C = TypeVar("C")

ATTEMPTS_DEFAULT = 5
BACKOFF_FIRST_S = 0.1
BACKOFF_FACTOR = 2.0
BACKOFF_MAX_S = 5.0

RunState = Literal["running", "done", "failed", "superseded"]


@dataclass(frozen=True, slots=True)
class Step(Generic[C]):
    """One idempotent action. Its result, one that encodes to JSON, is kept and handed to later steps by name."""

    name: str
    action: Callable[[C], Awaitable[Any]]
    attempts: int = ATTEMPTS_DEFAULT


@dataclass(frozen=True, slots=True)
class Operation(Generic[C]):
    """A named list of steps; `finalise` runs after them whether they worked or not (and may run twice)."""

    kind: str
    steps: Sequence[Step[C]]
    finalise: Callable[[C, BaseException | None], Awaitable[None]] | None = None

    def names(self) -> list[str]:
        return [step.name for step in self.steps]


@dataclass(slots=True)
class Run:
    """One execution of an operation, as the journal has it.

    Attributes:
        id: ULID.
        subject: what it happens to; at most one running run a subject.
        step: the step whose intent is written, "" before the first and after the last.
        input: what it was asked to do, in the operation's own type; the journal has it as JSON, as the outputs.
        outputs: results of the finished steps.
        resumed: this process did not begin it.
    """

    id: str
    subject: str
    kind: str
    input: Any
    step: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    state: RunState = "running"
    error: dict[str, Any] | None = None
    started_at_ns: int = 0
    finished_at_ns: int = 0
    phases: list[tuple[str, float]] = field(default_factory=list)
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `error` is the exception for the caller; the journal has it as data."""

    error: Exception | None = None

    @property
    def ok(self) -> bool:
        return self.error is None
