"""Signals by name or number."""

from __future__ import annotations

import signal as posix

from midge.errors import InvalidInput

SIGNAL_MAX = 64  # the highest real-time signal of Linux
STOP_SIGNALS = frozenset({"SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM"})


def signal_number(given: str | int, *, field: str) -> int:
    """``"SIGTERM"``, ``"TERM"`` or 15 as 15.

    Raises:
        InvalidInput: no such signal.
    """
    if isinstance(given, int):
        if 1 <= given <= SIGNAL_MAX:
            return given
        raise InvalidInput(f"invalid_argument: {field}: no such signal: {given}")
    name = given.upper() if given.upper().startswith("SIG") else f"SIG{given.upper()}"
    found = posix.Signals.__members__.get(name)
    if found is None:
        raise InvalidInput(
            f"invalid_argument: {field}: no such signal: {given[:32]!r}", hint="for example SIGTERM"
        )
    return int(found)


def stop_signal(given: str | None, *, field: str) -> str | None:
    """A signal that may ask a machine to stop, by name; None and empty: the machine's own.

    Raises:
        InvalidInput: not one of them.
    """
    if not given:
        return None
    if given not in STOP_SIGNALS:
        raise InvalidInput(
            f"invalid_argument: {field}: not a stop signal: {given[:32]!r}",
            hint="one of " + ", ".join(sorted(STOP_SIGNALS)),
        )
    return given
