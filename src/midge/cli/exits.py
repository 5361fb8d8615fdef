"""Exit codes: the one table.

    0    done
    1    failed
    2    usage or configuration
    3    no such object
    4    no token, or it does not reach this object
    5    somebody else holds or changed the object
    124  a wait ran out of time
    130  interrupted

`machine run`, `machine exec` and `machine run --shell` return what the remote command returned: 0 to 255, 128+n when
signal n ended it, 126 when it could not be executed, 127 when it was not found. There 125 says that Midge failed,
whatever the reason, so that a script can tell the two apart; usage errors stay 2.
"""

from __future__ import annotations

from midge.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    MidgeError,
    NotFound,
    Unauthorized,
)

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
AUTH = 4
CONFLICT = 5
TIMED_OUT = 124
PLATFORM = 125
NOT_EXECUTABLE = 126
COMMAND_NOT_FOUND = 127
SIGNAL_BASE = 128
INTERRUPTED = 130

TABLE: tuple[tuple[int, str], ...] = (
    (OK, "done"),
    (FAILED, "failed"),
    (USAGE, "usage or configuration"),
    (NOT_FOUND, "no such object"),
    (AUTH, "no token, or it does not reach this object"),
    (CONFLICT, "somebody else holds or changed the object"),
    (TIMED_OUT, "a wait ran out of time"),
    (PLATFORM, "run and exec: Midge failed, not the command"),
    (NOT_EXECUTABLE, "run and exec: the command cannot be executed"),
    (COMMAND_NOT_FOUND, "run and exec: the command was not found"),
    (SIGNAL_BASE, "run and exec: 128+n, signal n ended the command"),
    (INTERRUPTED, "interrupted"),
)


class UsageFailure(MidgeError):
    """The command line or the configuration is wrong; nothing was sent."""

    code = "usage"


class Refused(MidgeError):
    """The user said no, or could not be asked."""

    code = "refused"


# The first class that fits counts.
_BY_CLASS: tuple[tuple[type[BaseException], int], ...] = (
    (UsageFailure, USAGE),
    (NotFound, NOT_FOUND),
    (Unauthorized, AUTH),
    (Forbidden, AUTH),
    (Conflict, CONFLICT),
    (DeadlineExceeded, TIMED_OUT),
    (InvalidInput, USAGE),
    (KeyboardInterrupt, INTERRUPTED),
)

_BY_GUEST_CODE = {"not_found": COMMAND_NOT_FOUND, "not_executable": NOT_EXECUTABLE}


def of(error: BaseException, *, remote: bool = False) -> int:
    """The exit code for an error. `remote`: the command returns a remote command's codes."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, UsageFailure):
        return USAGE
    if remote:
        # The guest could not execute the command: that is the command's result, as in every shell.
        code = error.details.get("guest_code") if isinstance(error, MidgeError) else None
        return _BY_GUEST_CODE.get(str(code), PLATFORM)
    return next((code for kind, code in _BY_CLASS if isinstance(error, kind)), FAILED)


def remote(exit_code: int, signal: int = 0) -> int:
    """The exit code for a remote command that ended: 128+n for signal n, and never above 255."""
    if signal > 0:
        return SIGNAL_BASE + signal
    return exit_code & 0xFF
