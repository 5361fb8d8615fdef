"""Pages of lists: ``limit`` turns them on, ``fly-next-cursor`` names the next one, ``cursor`` asks for it."""

from __future__ import annotations

import base64
import binascii
import time
from typing import Annotated

from msgspec import Meta

from midge.errors import InvalidInput

LIMIT_MAX = 1000
CURSOR_TTL_S = 30 * 60
CURSOR_CHARS_MAX = 256
NEXT_CURSOR_HEADER = b"fly-next-cursor"

Limit = Annotated[int, Meta(ge=1, le=LIMIT_MAX)]


def encode_cursor(position: str, *, now_s: float | None = None) -> str:
    """A cursor that points after `position` and is good for half an hour."""
    expires = int((time.time() if now_s is None else now_s) + CURSOR_TTL_S)
    return base64.urlsafe_b64encode(f"{expires}.{position}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *, now_s: float | None = None) -> str:
    """The position of a cursor, empty for an empty one.

    Raises:
        InvalidInput: not a cursor of ours, or expired.
    """
    if not cursor:
        return ""
    if len(cursor) > CURSOR_CHARS_MAX:
        raise InvalidInput("invalid_argument: query parameter cursor: not a cursor of this server")
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        expires, _, position = text.partition(".")
        valid_until = int(expires)
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise InvalidInput("invalid_argument: query parameter cursor: not a cursor of this server") from error
    if valid_until < (time.time() if now_s is None else now_s):
        raise InvalidInput(
            "invalid_argument: query parameter cursor: expired", hint="start again from the first page"
        )
    return position
