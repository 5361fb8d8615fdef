"""The server about itself: health, metrics, version, limits, configuration, tasks, this API's description."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from typing import Any

import msgspec

import midge
from midge.api import apps, exec, history, images, machines, metadata, paging, route, wait
from midge.api.call import Call, Reply
from midge.api.route import Routes
from midge.errors import Forbidden
from midge.worker.host import HostStatus

PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
AWAITS_MAX = 32  # shown of each task in /-/tasks

routes = Routes(tag="Server", extension=True)
_BEGUN = time.monotonic()


class Health(msgspec.Struct, kw_only=True, frozen=True):
    status: str


class ReadyCheck(msgspec.Struct, kw_only=True, frozen=True):
    """`reason` says why not; empty when `ok`."""

    name: str
    ok: bool
    reason: str = ""


class Readiness(msgspec.Struct, kw_only=True, frozen=True):
    ready: bool
    checks: list[ReadyCheck]


class Version(msgspec.Struct, kw_only=True, frozen=True):
    version: str
    api: str
    python: str
    driver: str
    region: str


class Status(msgspec.Struct, kw_only=True, frozen=True):
    """`machines` counts by state, destroyed ones left out."""

    host: HostStatus
    apps: int
    machines: int
    version: str
    pid: int
    uptime_s: float
    requests: int


class Task(msgspec.Struct, kw_only=True, frozen=True):
    name: str
    at: list[str]


@routes.get("/healthz", auth=False)
async def healthz(call: Call[None, None]) -> Health:
    """The process is up."""
    return Health(status="ok")


@routes.get("/readyz", auth=False, also={503: Readiness})
async def readyz(call: Call[None, None]) -> Reply[Readiness]:
    """Whether requests can be served: 200 or 503, with the checks one by one."""
    services = call.services
    checks = [
        ReadyCheck(
            name="serving",
            ok=not services.stopping.is_set(),
            reason="shutting down" if services.stopping.is_set() else "",
        )
    ]
    try:
        await services.central.organizations.get("personal")
        checks.append(ReadyCheck(name="central-store", ok=True))
    except Exception as error:  # whatever is wrong with the store is the answer
        checks.append(ReadyCheck(name="central-store", ok=False, reason=str(error)))
    host = services.host.status()
    checks.append(ReadyCheck(name="worker", ok=host.ready, reason=host.reason))
    ready = all(check.ok for check in checks)
    return Reply(Readiness(ready=ready, checks=checks), status=200 if ready else 503)


@routes.get("/metrics", auth=False, content_type="text/plain")
async def metrics(call: Call[None, None]) -> Reply[bytes]:
    """Figures for Prometheus."""
    return Reply(call.services.metrics.render(call.services.host), content_type=PROMETHEUS)


@routes.get("/-/version", auth=False)
async def version(call: Call[None, None]) -> Version:
    """What is running."""
    host = call.services.host.status()
    return Version(
        version=midge.__version__,
        api="v1",
        python=platform.python_version(),
        driver=host.driver,
        region=call.services.region,
    )


@routes.get("/-/limits", auth=False)
async def limits(call: Call[None, None]) -> dict[str, int]:
    """What requests may ask for at most."""
    return {
        "body_bytes": route.BODY_BYTES_MAX,
        "page_items": paging.LIMIT_MAX,
        "page_cursor_ttl_s": paging.CURSOR_TTL_S,
        "wait_timeout_s": wait.TIMEOUT_MAX_S,
        "exec_timeout_s": exec.TIMEOUT_MAX_S,
        "exec_output_bytes": exec.OUTPUT_BYTES_MAX,
        "events": history.EVENTS_MAX,
        "phases": history.PHASES_MAX,
        "lease_ttl_s": machines.LEASE_TTL_MAX_S,
        "metadata_key_chars": metadata.KEY_MAX,
        "metadata_value_chars": metadata.VALUE_MAX,
        "image_upload_bytes": images.UPLOAD_BYTES_MAX,
        "token_expiry_s": apps.TOKEN_EXPIRY_MAX_S,
    }


@routes.get("/-/config", errors=(Forbidden,))
async def config(call: Call[None, None]) -> dict[str, Any]:
    """The configuration in effect, without secrets."""
    call.principal.check_admin()
    return call.services.config


@routes.get("/-/status", errors=(Forbidden,))
async def status(call: Call[None, None]) -> Status:
    """This host at a glance."""
    call.principal.check_admin()
    services = call.services
    host = services.host.status()
    return Status(
        host=host,
        apps=await services.central.apps.count(),
        machines=sum(count for state, count in host.machines.items() if state != "destroyed"),
        version=midge.__version__,
        pid=os.getpid(),
        uptime_s=round(time.monotonic() - _BEGUN, 3),
        requests=services.metrics.requests_total(),
    )


@routes.get("/-/tasks", errors=(Forbidden,))
async def tasks(call: Call[None, None]) -> list[Task]:
    """What every task of the server waits for."""
    call.principal.check_admin()
    return task_tree()


def task_tree() -> list[Task]:
    """All tasks of the running loop, with the coroutines they are suspended in, outermost first."""
    found = [Task(name=task.get_name(), at=_awaits(task.get_coro())) for task in asyncio.all_tasks()]
    return sorted(found, key=lambda task: task.name)


def _awaits(coroutine: Any) -> list[str]:
    """The chain of awaits: ``read_body …/send.py:38``. `Task.get_stack` would give the outermost alone."""
    at: list[str] = []
    while coroutine is not None and len(at) < AWAITS_MAX:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is not None:
            at.append(f"{frame.f_code.co_qualname} {frame.f_code.co_filename}:{frame.f_lineno}")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return at
