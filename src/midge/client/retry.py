"""When a request is sent again.

Only requests that are harmless to repeat, and only where the server said "not now" (502, 503) or never answered.
A connection that was refused carried nothing, so then even the others may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Sends of one request, the first included.
ATTEMPTS_MAX = 4

# The pause before the second send, in seconds; it doubles each time, up to PAUSE_MAX_S.
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 2.0

# A Retry-After longer than this, in seconds, is left to the caller: nobody waits silently for minutes.
RETRY_AFTER_MAX_S = 10.0

RETRIED_STATUSES = frozenset({502, 503})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast. `attempts` 1: never again."""

    attempts: int = ATTEMPTS_MAX
    pause_first_s: float = PAUSE_FIRST_S
    pause_max_s: float = PAUSE_MAX_S

    def pause_s(
        self, sent: int, uniform: Callable[[], float], retry_after_s: float | None = None
    ) -> float | None:
        """Seconds to pause after `sent` sends, or None to give up.

        `uniform` gives numbers in [0, 1): the pause lies between half of the full one and the full one, so that
        clients which failed together do not come back together.
        """
        if sent >= self.attempts:
            return None
        if retry_after_s is not None:
            return retry_after_s if retry_after_s <= RETRY_AFTER_MAX_S else None
        full = min(self.pause_max_s, self.pause_first_s * (1 << (sent - 1)))
        return full * (0.5 + 0.5 * uniform())


NO_RETRIES = RetryPolicy(attempts=1)
