"""What a mock machine is told to do."""

from __future__ import annotations

import msgspec

from midge.errors import InvalidInput

DELAY_MAX_MS = 3_600_000
FAILURES_MAX = 1_000
EXIT_CODE_MAX = 255
SIGNAL_MAX = 64


class Order(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The order of one machine; times in milliseconds.

    Attributes:
        prepare_ms, start_ms, stop_ms, suspend_ms, resume_ms: how long the verb takes.
        fail_prepare, fail_start, fail_suspend, fail_resume: how many times the verb fails before it works.
        fail_final: the failures cannot be retried.
        exit_after_ms: the process ends by itself that long after its start; None: it runs until it is stopped.
        exit_code, exit_signal, oom_killed: how it ends by itself.
        ignore_signals: only a kill ends it.
        output: written to its log at every start.
        lose_snapshot: a resume finds its snapshot unusable.
    """

    prepare_ms: int = 0
    start_ms: int = 0
    stop_ms: int = 0
    suspend_ms: int = 0
    resume_ms: int = 0
    fail_prepare: int = 0
    fail_start: int = 0
    fail_suspend: int = 0
    fail_resume: int = 0
    fail_final: bool = False
    exit_after_ms: int | None = None
    exit_code: int = 0
    exit_signal: int = 0
    oom_killed: bool = False
    ignore_signals: bool = False
    output: str = ""
    lose_snapshot: bool = False


def parse(text: str) -> Order:
    """An empty text is an order to run until stopped.

    Raises:
        InvalidInput: not JSON, an unknown member, or a number out of range.
    """
    if not text:
        return Order()
    try:
        order = msgspec.json.decode(text, type=Order)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"metadata midge.mock: {error}") from error
    times = (order.prepare_ms, order.start_ms, order.stop_ms, order.suspend_ms, order.resume_ms)
    if any(not 0 <= t <= DELAY_MAX_MS for t in (*times, order.exit_after_ms or 0)):
        raise InvalidInput(f"metadata midge.mock: times are between 0 and {DELAY_MAX_MS} ms")
    failures = (order.fail_prepare, order.fail_start, order.fail_suspend, order.fail_resume)
    if any(not 0 <= n <= FAILURES_MAX for n in failures):
        raise InvalidInput(f"metadata midge.mock: failures are between 0 and {FAILURES_MAX}")
    if not 0 <= order.exit_code <= EXIT_CODE_MAX or not 0 <= order.exit_signal <= SIGNAL_MAX:
        raise InvalidInput(
            f"metadata midge.mock: exit_code is at most {EXIT_CODE_MAX}, exit_signal at most {SIGNAL_MAX}"
        )
    return order
