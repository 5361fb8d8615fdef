"""Errors as the Machines API writes them, and what the api adds to them.

``{"error": text, "status"?: name, "code": name, "hint"?: text, "details"?: object}``; `error`, `status` and `details`
are Fly's, `code` and `hint` are ours. Fly's clients print `error`, and some match parts of it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from midge.errors import MidgeError, RateLimited, Unavailable

RETRY_AFTER_S = 1  # what 429 and 503 suggest


class ErrorBody(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What every answer of 400 and above carries."""

    error: str
    code: str
    status: str | None = None
    hint: str = ""
    details: dict[str, Any] | None = None
    request_id: str | None = None


class InternalError(MidgeError):
    """Stands for an exception nobody expected: a bug."""

    code = "internal"


def body_of(error: MidgeError) -> bytes:
    details = dict(error.details) if error.details else None
    body = ErrorBody(
        error=str(error), code=error.code, status=error.api_status, hint=error.hint, details=details
    )
    return msgspec.json.encode(body, enc_hook=str)


def headers_of(error: MidgeError) -> list[tuple[bytes, bytes]]:
    if isinstance(error, (Unavailable, RateLimited)):
        return [(b"retry-after", str(RETRY_AFTER_S).encode())]
    return []


def internal_error(request_id: str) -> InternalError:
    return InternalError(
        f"internal error, request {request_id}",
        hint="this is a bug in midge; the server's log has the details under this request id",
    )


def printable(text: str, limit: int = 128) -> str:
    """`text` shortened and without control characters, fit for a header or a log line."""
    return re.sub(r"[^\x21-\x7e]", "", text)[:limit]
