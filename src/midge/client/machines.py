"""Requests about machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midge.client.request import POLL_MARGIN_S, TIMEOUT_S, Request, get, path, query

# The API's own limit for one `/wait`, in whole seconds.
WAIT_SLICE_MAX_S = 60

# Machines asked for at once when paging; the API allows 1000.
PAGE_SIZE = 200

# The API's own limit for one `/events`.
EVENTS_MAX = 50

# How long an answer to start, restart or suspend may take, in seconds: they wait for the guest.
LIFECYCLE_TIMEOUT_S = 90.0

NONCE_HEADER = "fly-machine-lease-nonce"


def _of(app: str, machine: str, *rest: str) -> str:
    return path("apps", app, "machines", machine, *rest)


def _nonce(nonce: str) -> dict[str, str]:
    return {NONCE_HEADER: nonce} if nonce else {}


def list_page(
    app: str,
    *,
    states: tuple[str, ...] = (),
    region: str = "",
    metadata: Mapping[str, str] | None = None,
    include_deleted: bool = False,
    summary: bool = False,
    limit: int = PAGE_SIZE,
    cursor: str = "",
) -> Request:
    filters = tuple((f"metadata.{key}", value) for key, value in (metadata or {}).items())
    return get(
        path("apps", app, "machines"),
        query=query(
            state=",".join(states),
            region=region,
            include_deleted=True if include_deleted else None,
            summary=True if summary else None,
            limit=limit,
            cursor=cursor,
        )
        + filters,
    )


def get_machine(app: str, machine: str) -> Request:
    return get(_of(app, machine))


def create(
    app: str, config: dict[str, Any], *, name: str = "", region: str = "", skip_launch: bool = False
) -> Request:
    """Not idempotent: sent twice it would make two machines."""
    body: dict[str, Any] = {"config": config}
    if name:
        body["name"] = name
    if region:
        body["region"] = region
    if skip_launch:
        body["skip_launch"] = True
    return Request(
        method="POST", path=path("apps", app, "machines"), body=body, timeout_s=LIFECYCLE_TIMEOUT_S
    )


def update(
    app: str,
    machine: str,
    config: dict[str, Any],
    *,
    current_version: str = "",
    skip_launch: bool = False,
    nonce: str = "",
) -> Request:
    body: dict[str, Any] = {"config": config}
    if current_version:
        body["current_version"] = current_version
    if skip_launch:
        body["skip_launch"] = True
    return Request(
        method="POST",
        path=_of(app, machine),
        body=body,
        headers=_nonce(nonce),
        timeout_s=LIFECYCLE_TIMEOUT_S,
    )


def start(app: str, machine: str, *, nonce: str = "") -> Request:
    return _verb(app, machine, "start", nonce=nonce)


def stop(app: str, machine: str, *, signal: str = "", timeout: str = "", nonce: str = "") -> Request:
    """`timeout` as the API writes durations ("10s"); empty: the machine's own."""
    body = {name: value for name, value in (("signal", signal), ("timeout", timeout)) if value}
    return _verb(app, machine, "stop", body=body or None, nonce=nonce)


def restart(
    app: str, machine: str, *, signal: str = "", timeout: str = "", force: bool = False, nonce: str = ""
) -> Request:
    """Not idempotent: sent twice it would restart twice."""
    return Request(
        method="POST",
        path=_of(app, machine, "restart"),
        query=query(signal=signal, timeout=timeout, force_stop=True if force else None),
        headers=_nonce(nonce),
        timeout_s=LIFECYCLE_TIMEOUT_S,
    )


def suspend(app: str, machine: str, *, nonce: str = "") -> Request:
    return _verb(app, machine, "suspend", nonce=nonce)


def cordon(app: str, machine: str, *, cordoned: bool, nonce: str = "") -> Request:
    return _verb(app, machine, "cordon" if cordoned else "uncordon", nonce=nonce)


def _verb(app: str, machine: str, verb: str, *, body: Any = None, nonce: str = "") -> Request:
    """A verb whose second application finds the machine where the first put it."""
    return Request(
        method="POST",
        path=_of(app, machine, verb),
        body=body,
        headers=_nonce(nonce),
        idempotent=True,
        timeout_s=LIFECYCLE_TIMEOUT_S,
    )


def signal(app: str, machine: str, name: str | int) -> Request:
    """Not idempotent: a program may count its signals."""
    return Request(method="POST", path=_of(app, machine, "signal"), body={"signal": name})


def destroy(app: str, machine: str, *, force: bool = False, nonce: str = "") -> Request:
    return Request(
        method="DELETE",
        path=_of(app, machine),
        query=query(force=True if force else None),
        headers=_nonce(nonce),
        idempotent=True,
    )


def wait(
    app: str,
    machine: str,
    states: tuple[str, ...],
    *,
    slice_s: int,
    version: str = "",
    from_event_id: str = "",
) -> Request:
    """One long poll of `slice_s` seconds, at most `WAIT_SLICE_MAX_S`."""
    return get(
        _of(app, machine, "wait"),
        query=query(state=",".join(states), timeout=slice_s, version=version, from_event_id=from_event_id),
        timeout_s=slice_s + POLL_MARGIN_S,
    )


def events(app: str, machine: str, *, limit: int) -> Request:
    return get(_of(app, machine, "events"), query=query(limit=min(limit, EVENTS_MAX)))


def phases(app: str, machine: str, *, limit: int) -> Request:
    return get(_of(app, machine, "phases"), query=query(limit=limit))


def processes(app: str, machine: str) -> Request:
    return get(_of(app, machine, "ps"))


def versions(app: str, machine: str) -> Request:
    return get(_of(app, machine, "versions"))


def set_metadata(app: str, machine: str, changes: Mapping[str, str | None]) -> Request:
    return Request(
        method="PATCH", path=_of(app, machine, "metadata"), body={"metadata": dict(changes)}, idempotent=True
    )


def exec_once(app: str, machine: str, argv: list[str], *, timeout_s: int) -> Request:
    """Not idempotent. `timeout_s` in whole seconds; 0: the server's limit."""
    body: dict[str, Any] = {"command": argv} | ({"timeout": timeout_s} if timeout_s else {})
    return Request(
        method="POST",
        path=_of(app, machine, "exec"),
        body=body,
        timeout_s=(timeout_s or TIMEOUT_S) + POLL_MARGIN_S,
    )


def logs(
    app: str,
    machine: str,
    *,
    follow: bool = False,
    tail: int | None = None,
    since: str = "",
    stream: str = "",
) -> Request:
    """Lines of JSON. A follower hears nothing for as long as the machine says nothing."""
    return get(
        _of(app, machine, "logs"),
        query=query(follow=True if follow else None, tail=tail, since=since, stream=stream),
        timeout_s=None if follow else TIMEOUT_S,
    )


def exec_socket(app: str, machine: str) -> str:
    return _of(app, machine, "exec", "ws")


def proxy_socket(app: str, machine: str) -> str:
    return _of(app, machine, "proxy", "ws")
