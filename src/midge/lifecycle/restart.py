"""What follows an exit: the restart policy as a pure function.

Source: Fly's documentation of `restart`: `on-failure` (the default) restarts on a non-zero exit, at most `max_retries`
(10) times within five minutes; `always` restarts on any exit; `no` never. A stop or suspend that was asked for never
triggers it. The back-off between retries is not documented there; ours starts at once and doubles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from midge.machine.config import MachineConfig
from midge.machine.spec import ExitStatus

DEFAULT_MAX_RETRIES: Final = 10
WINDOW_S: Final = 300.0
BACKOFF_FIRST_S: Final = 1.0  # before the second retry; the first follows at once
BACKOFF_MAX_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`then` says what happens; `delay_s` how long a restart waits first."""

    then: Literal["stop", "restart", "destroy"]
    delay_s: float = 0.0


def after_exit(
    config: MachineConfig, status: ExitStatus, *, requested: bool, retries_s: Sequence[float], now_s: float
) -> Verdict:
    """Decides by policy.

    Args:
        requested: a stop was asked for.
        retries_s: when the policy restarted this machine before, seconds of wall clock.
    """
    rest: Verdict = Verdict("destroy") if config.auto_destroy else Verdict("stop")
    if requested:
        return rest
    restart = config.restart
    policy = (restart.policy if restart else None) or "on-failure"
    recent = [at for at in retries_s if now_s - at < WINDOW_S]
    if policy == "no":
        return rest
    if policy == "on-failure" or policy == "spot-price":
        limit = restart.max_retries if restart and restart.max_retries is not None else DEFAULT_MAX_RETRIES
        if status.exit_code == 0 or len(recent) >= limit:
            return rest
    return Verdict("restart", backoff_s(len(recent)))


def backoff_s(retries: int) -> float:
    """0, 1, 2, 4 … seconds, at most BACKOFF_MAX_S."""
    if retries == 0:
        return 0.0
    return float(min(BACKOFF_FIRST_S * 2 ** min(retries - 1, 16), BACKOFF_MAX_S))
