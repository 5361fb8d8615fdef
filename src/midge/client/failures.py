"""What an answer other than 2xx means: one class of `midge.errors`, or `ApiError` when none fits.

MidgeError
├── ApiError                          an answer nothing more is known about
├── TransportError  (Unavailable)     no answer: the server cannot be reached, or broke off
├── WaitTimeout     (DeadlineExceeded)  the state was not reached in time
└── StateUnreachable (PreconditionFailed)  the state cannot be reached any more
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from midge.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    MidgeError,
    NoCapacity,
    NotFound,
    NotSupported,
    OutOfSpace,
    PreconditionFailed,
    RateLimited,
    TooLarge,
    Unauthorized,
    Unavailable,
)

# Characters of an answer that is no JSON which go into a message: enough for one line of a proxy's error page.
TEXT_MAX = 200


class ApiError(MidgeError):
    """An error answer whose code this client does not know."""

    code = "api_error"


class TransportError(Unavailable):
    """The server could not be reached, or the connection broke."""

    code = "unreachable"


class WaitTimeout(DeadlineExceeded):
    """The machine did not reach the state in time. It may still."""

    code = "wait_timeout"


class StateUnreachable(PreconditionFailed):
    """The machine went where the awaited state cannot come from."""

    code = "state_unreachable"


_BY_STATUS: dict[int, type[MidgeError]] = {
    400: InvalidInput,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    408: DeadlineExceeded,
    409: Conflict,
    412: PreconditionFailed,
    413: TooLarge,
    422: InvalidInput,
    429: RateLimited,
    501: NotSupported,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: OutOfSpace,
}


def from_response(status: int, body: bytes, headers: Mapping[str, str]) -> MidgeError:
    """The error an answer describes.

    `details` holds what the server sent there, ``request_id``, and ``retry_after_s`` or, for an `ApiError`, the
    server's ``code``, where there is one. `status` is the answer's.
    """
    fields = _fields(body)
    text = (
        _text(fields.get("error")) or _text(fields.get("message")) or _plain(body) or f"HTTP status {status}"
    )
    sent = fields.get("details")
    details: dict[str, object] = (
        {str(name): value for name, value in sent.items()} if isinstance(sent, dict) else {}
    )
    details = {name: value for name, value in details.items() if name not in ("message", "hint")}
    details["request_id"] = headers.get("fly-request-id", "")
    retry_after = headers.get("retry-after", "")
    if retry_after.isdigit():
        details["retry_after_s"] = float(retry_after)
    code = _text(fields.get("code"))
    kind = _class_for(status, code, _text(fields.get("status")))
    if kind is ApiError and code:
        details["code"] = code
    error = kind(text, hint=_text(fields.get("hint")), **details)
    error.status = status
    return error


def request_id_of(error: BaseException) -> str:
    """The request id an error or one of its causes carries, or an empty string."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, MidgeError) and current.details.get("request_id"):
            return str(current.details["request_id"])
        current = current.__cause__
    return ""


def code_of(error: BaseException) -> str:
    """The stable code of an error: the server's own where this client has no class for it."""
    if isinstance(error, ApiError):
        return str(error.details.get("code") or error.code)
    return error.code if isinstance(error, MidgeError) else "internal"


def _class_for(status: int, code: str, api_status: str) -> type[MidgeError]:
    by_code = {kind.code: kind for kind in _tree(MidgeError) if kind.__module__ == "midge.errors"}
    # Abort and Unrecoverable steer operations and take other arguments; on the wire they are just failures.
    if code in by_code and code not in ("internal", "aborted"):
        return by_code[code]
    if api_status == "insufficient_capacity":
        return NoCapacity
    return _BY_STATUS.get(status, ApiError)


def _tree(kind: type[MidgeError]) -> Iterator[type[MidgeError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _tree(child)


def _fields(body: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(body)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _plain(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return text[:TEXT_MAX]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
