"""Every error Midge raises on purpose, in one tree.

MidgeError                        code, status, hint: what API and CLI show
├── InvalidInput        400       the request is malformed
│   └── ImageInvalid    400       an image breaks its format, a digest or a limit
├── Unauthorized        401       no token, or one we do not know
├── Forbidden           403       the token does not reach this object
├── NotFound            404       no such object
│   └── ImageNotFound   404       no such image, here or in its registry
├── MethodNotAllowed    405       the path is there, but not for this method
├── Conflict            409       somebody else changed or holds the object
│   ├── NameTaken       409 / 422
│   └── LeaseHeld       409
├── PreconditionFailed  412       the object is in the wrong state
                              (IllegalTransition, our bug: midge.lifecycle.table)
├── NoCapacity          422       no host has room
├── DeadlineExceeded    408       a wait or a request ran out of time
├── TooLarge            413       a body or a field is over its limit
├── RateLimited         429
├── NotSupported        501       this driver or host cannot do it
├── Unavailable         503       a dependency is down; a retry may help
│   ├── RegistryUnavailable
│   └── OutOfSpace      507
├── DriverError         500       the driver failed
│   ├── SnapshotUnusable          a snapshot is missing or damaged: start cold
│   ├── NotRunning                the machine has been cleared away already
│   └── HandleUnknown             another version of Midge started the machine: leave it alone
└── GuestError          500       the guest refused, or broke the protocol

An error's class says whether a step of an operation that raised it is tried again (see midge.operations): not where
`retried` is False, since such an error says the same every time. Any other exception is tried again, with back-off, up
to the step's limit.

Messages are lower case, without a full stop, name the object, and do not repeat their cause: raise them
with ``from`` and let `chain` render the causes.
"""

from __future__ import annotations

from typing import ClassVar, Literal


class MidgeError(Exception):
    """Base of all errors that are meant for somebody to read.

    Attributes:
        code: stable identifier, part of the API.
        status: HTTP status the API answers with.
        hint: what to do about it, one sentence or a command; empty if there is nothing to say.
        api_status: the `status` member of the Machines API's error body, when it has one.
        retried: a step of an operation that failed with it is tried again.
    """

    code: ClassVar[str] = "internal"
    retried: ClassVar[bool] = True
    status: int = 500
    api_status: str | None = None

    def __init__(self, message: str, *, hint: str = "", **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return self.message


class InvalidInput(MidgeError):
    code = "invalid_input"
    retried = False
    status = 400


class ImageInvalid(InvalidInput):
    code = "image_invalid"


class Unauthorized(MidgeError):
    code = "unauthorized"
    status = 401


class Forbidden(MidgeError):
    code = "forbidden"
    status = 403


class NotFound(MidgeError):
    code = "not_found"
    retried = False
    status = 404


class ImageNotFound(NotFound):
    code = "image_not_found"


class MethodNotAllowed(MidgeError):
    code = "method_not_allowed"
    status = 405


class Conflict(MidgeError):
    code = "conflict"
    status = 409


class NameTaken(Conflict):
    code = "name_taken"
    api_status = "name_taken"


class LeaseHeld(Conflict):
    code = "lease_held"


class PreconditionFailed(MidgeError):
    code = "failed_precondition"
    status = 412


class NoCapacity(MidgeError):
    code = "insufficient_capacity"
    retried = False
    status = 422
    api_status = "insufficient_capacity"


class DeadlineExceeded(MidgeError):
    code = "deadline_exceeded"
    status = 408


class TooLarge(MidgeError):
    code = "too_large"
    status = 413


class RateLimited(MidgeError):
    code = "rate_limited"
    status = 429


class NotSupported(MidgeError):
    code = "not_supported"
    retried = False
    status = 501


class Unavailable(MidgeError):
    code = "unavailable"
    status = 503


class RegistryUnavailable(Unavailable):
    code = "registry_unavailable"


class OutOfSpace(Unavailable):
    code = "out_of_space"
    retried = False
    status = 507


class DriverError(MidgeError):
    code = "driver_failed"


class SnapshotUnusable(DriverError):
    """A suspended machine cannot be brought back from its snapshot; a cold start is due."""

    code = "snapshot_unusable"


class NotRunning(DriverError):
    """The driver runs no machine of this handle: it has been cleared away already."""

    code = "not_running"


class HandleUnknown(DriverError):
    """A handle of a version that this Midge does not read. What it names may run, and is not to be touched."""

    code = "handle_unknown"


class GuestError(MidgeError):
    code = "guest_failed"


class Abort(MidgeError):
    """Ends the operation that raised it: it failed, and trying again cannot help."""

    code = "aborted"
    retried = False


class Unrecoverable(Abort):
    """Ends the operation, and says whose fault it was."""

    def __init__(
        self, message: str, *, kind: Literal["user", "system"], hint: str = "", **details: object
    ) -> None:
        super().__init__(message, hint=hint, **details)
        self.kind = kind
        self.status = 422 if kind == "user" else 500


def chain(error: BaseException) -> str:
    """The error and its causes on one line: ``a: b: c``."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < 8:
        text = str(current) or type(current).__name__
        if not parts or parts[-1] != text:
            parts.append(text)
        current = current.__cause__
    return ": ".join(parts)
