"""A running server: everything opened in order, everything closed in the opposite one.

```
 data directory (lock) ─► central store ─► root token ─► host ─► api ─► socket ─► server.json
```

`running` is the whole of it without signals: tests use it as it is, `serve` adds the process around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from midge.api.app import build_api
from midge.api.apps import finish_deletion
from midge.api.images_port import ImagesPort
from midge.api.metrics import Metrics
from midge.api.services import Services
from midge.central.reconcile import reconcile
from midge.central.store import Central
from midge.server.discovery import ensure_root_token, write_server_file
from midge.server.inventory import HostInventory
from midge.server.listener import HttpServer, bind, http_server, until_started, url_of
from midge.server.lock import DataDirLock
from midge.server.paths import Paths
from midge.server.settings import Settings
from midge.worker.host import Host

_log = structlog.get_logger("midge.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHost:
    """A worker that is up, and the images it works with (None where there are none)."""

    host: Host
    images: ImagesPort | None = None


# Opens the worker of this host; leaving the context joins its work and leaves the machines running.
HostOpener = Callable[[Settings, Paths], AbstractAsyncContextManager[OpenHost]]


@dataclass(slots=True, kw_only=True)
class RunningServer:
    """`token_is_new`: this start made the root token."""

    url: str
    token: str
    token_is_new: bool
    services: Services
    paths: Paths
    http: HttpServer

    def stop(self) -> None:
        """Stops accepting; whoever waits long is told to come back. Leaving the context waits for the rest."""
        self.services.stopping.set()
        self.http.should_exit = True

    def stop_now(self) -> None:
        """No more waiting for requests under way."""
        self.stop()
        self.http.force_exit = True


@asynccontextmanager
async def running(settings: Settings, open_host: HostOpener) -> AsyncIterator[RunningServer]:
    """Runs a server for as long as the context is open.

    Raises:
        Conflict: the data directory or the address is in use.
        LayoutTooNew, SchemaTooNew: a newer Midge wrote the data.
        InvalidInput: the settings make no sense.
    """
    paths = Paths(Path(settings.data_dir), settings.run_dir)
    await asyncio.to_thread(paths.make)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(DataDirLock(paths.lock))
        await asyncio.to_thread(paths.make_run_dir)
        stack.callback(paths.tidy_run_dir)
        central = await stack.enter_async_context(Central(paths.central_db))
        token, is_new = await ensure_root_token(paths, central.tokens)
        listener = stack.enter_context(bind(settings))
        opened = await stack.enter_async_context(open_host(settings, paths))
        services = Services(
            central=central,
            host=opened.host,
            images=opened.images,
            region=settings.region,
            metrics=Metrics(),
            upload_dir=paths.uploads,
            config=redacted(settings),
            access_log=settings.access_log,
        )
        await _put_in_order(services)
        url = url_of(listener, tls=bool(settings.tls_cert))
        http = http_server(build_api(services), settings)
        server = RunningServer(
            url=url, token=token, token_is_new=is_new, services=services, paths=paths, http=http
        )
        async with _serving(server, listener, settings):
            yield server


@asynccontextmanager
async def _serving(server: RunningServer, listener: socket.socket, settings: Settings) -> AsyncIterator[None]:
    """The tasks of a server; ends with all of them.

    No TaskGroup, which would wrap whatever the body raises; the tasks are owned, and joined, here all the same.
    """
    http = asyncio.create_task(server.http.serve(sockets=[listener]), name="http")
    janitor = asyncio.create_task(_reconcile_for_ever(server.services, settings), name="reconcile")
    http.add_done_callback(lambda _: server.stop())  # if it ends by itself, so does all the rest
    try:
        await until_started(server.http, http)
        write_server_file(server.paths, server.url, settings.region)
        yield
    finally:
        server.paths.server_json.unlink(missing_ok=True)
        server.stop()
        janitor.cancel()
        await asyncio.gather(janitor, return_exceptions=True)
        await http


async def _put_in_order(services: Services) -> None:
    """What a crash left half-done."""
    for app in await services.central.apps.deleting():
        _log.info("deletion of an app goes on", app=app.name)
        await finish_deletion(services, app)
    await reconcile(services.central, HostInventory(services.host))


async def _reconcile_for_ever(services: Services, settings: Settings) -> None:
    while True:
        await asyncio.sleep(settings.reconcile_interval_s)
        try:
            await reconcile(services.central, HostInventory(services.host))
        except Exception:  # the next round may do better; the server must not end because of this
            _log.exception("machine records could not be reconciled")


def redacted(settings: Settings) -> dict[str, Any]:
    """For people to look at: no secret is among the settings, only paths of them."""
    shown: dict[str, Any] = msgspec.to_builtins(settings)
    if shown["tls_key"]:
        shown["tls_key"] = "[set]"
    return shown
