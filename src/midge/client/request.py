"""A request as a value: what a resource's builder returns and a transport sends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from midge import __version__

USER_AGENT = f"midge/{__version__}"

# How long a connection may take to be established, in seconds: a host that is up answers within one.
CONNECT_TIMEOUT_S = 5.0

# How long one answer may take, in seconds. Longer only where the caller says so (long polls, streams).
TIMEOUT_S = 30.0

# What the server adds to a long poll before it answers, in seconds: the client's own limit must come later.
POLL_MARGIN_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request.

    Attributes:
        path: absolute, already quoted; the base URL's own path is not used.
        body: sent as JSON unless None.
        content: raw body in pieces, instead of `body`.
        idempotent: asking twice does no more than asking once, so it may be repeated after a broken connection.
        timeout_s: for each read; None for streams that may be silent for long.
        accepted: statuses other than 2xx whose body is an answer and not an error.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    content: Iterable[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotent: bool = False
    timeout_s: float | None = TIMEOUT_S
    accepted: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer. `body` is decoded JSON, or None when there was none; header names are lower case."""

    status: int
    body: Any
    headers: Mapping[str, str]


def path(*parts: str) -> str:
    """``/v1`` and the parts, each quoted: a name with a slash cannot leave its place."""
    return "/v1/" + "/".join(quote(part, safe=":@") for part in parts)


def query(**values: str | int | float | bool | None) -> tuple[tuple[str, str], ...]:
    """Query parameters in the order given; None and empty strings are left out, booleans are ``true``/``false``."""
    pairs = []
    for name, value in values.items():
        if value is None or value == "":
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        pairs.append((name, text))
    return tuple(pairs)


def get(
    where: str, *, query: tuple[tuple[str, str], ...] = (), timeout_s: float | None = TIMEOUT_S
) -> Request:
    return Request(method="GET", path=where, query=query, idempotent=True, timeout_s=timeout_s)
