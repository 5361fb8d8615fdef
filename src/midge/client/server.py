"""Requests about the server itself and the places it knows."""

from __future__ import annotations

from midge.client.machines import PAGE_SIZE
from midge.client.request import Request, get, path, query

# A server that is asked for its health answers at once, or is not healthy; in seconds.
HEALTH_TIMEOUT_S = 5.0


def version() -> Request:
    return get("/-/version", timeout_s=HEALTH_TIMEOUT_S)


def ready() -> Request:
    """Answers 503 with the same body while it is not ready."""
    return Request(method="GET", path="/readyz", timeout_s=HEALTH_TIMEOUT_S, accepted=frozenset({503}))


def status() -> Request:
    return get("/-/status", timeout_s=HEALTH_TIMEOUT_S)


def config() -> Request:
    """The configuration in effect, for administrators."""
    return get("/-/config", timeout_s=HEALTH_TIMEOUT_S)


def regions() -> Request:
    return get(path("platform", "regions"))


def org_machines(
    org: str,
    *,
    states: tuple[str, ...] = (),
    include_deleted: bool = False,
    cursor: str = "",
    limit: int = PAGE_SIZE,
) -> Request:
    return get(
        path("orgs", org, "machines"),
        query=query(
            state=",".join(states),
            include_deleted=True if include_deleted else None,
            cursor=cursor,
            limit=limit,
        ),
    )
