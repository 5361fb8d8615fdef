"""The API's resources, blocking.

    with Client(endpoint) as client:
        machine = client.machines.create("web", {"image": "debian"})
        client.machines.wait("web", machine["id"], ("started",), timeout_s=60)

Objects are the API's JSON as dictionaries: members this client does not know are kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from midge.client import apps, images, machines, server
from midge.client.endpoint import Endpoint
from midge.client.execution import ExecSession, execute
from midge.client.failures import TransportError, from_response
from midge.client.request import Request
from midge.client.transport import Lines, Transport
from midge.client.wait import wait
from midge.client.websocket import Connection, connect

Json = dict[str, Any]
JsonList = list[Json]

# Pages of one listing: with `machines.PAGE_SIZE` far more machines than a cluster has; a server that hands out
# cursors for ever must not keep a client for ever.
PAGES_MAX = 1000

# The status of an answer that has begun well: an error in its last line has no status of its own.
OK = 200


class Client:
    """One server. Opens no connection before the first call."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        transport: Transport | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.transport = transport or Transport(endpoint)
        self.apps = Apps(self.transport)
        self.machines = Machines(self.transport, monotonic)
        self.images = Images(self.transport)
        self.server = Server(self.transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.transport.close()


class Apps:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, org: str) -> JsonList:
        return list(self._transport.send(apps.list_apps(org)).body["apps"])

    def get(self, name: str) -> Json:
        return dict(self._transport.send(apps.get_app(name)).body)

    def create(self, name: str, org: str, *, network: str = "") -> Json:
        return dict(self._transport.send(apps.create(name, org, network)).body)

    def destroy(self, name: str) -> None:
        self._transport.send(apps.destroy(name))


class Machines:
    def __init__(self, transport: Transport, monotonic: Callable[[], float]) -> None:
        self._transport = transport
        self._monotonic = monotonic

    def pages(self, app: str, **filters: Any) -> Iterator[JsonList]:
        """One list a request; `filters` as `midge.client.machines.list_page` takes them."""
        cursor = ""
        for _ in range(PAGES_MAX):
            answer = self._transport.send(machines.list_page(app, cursor=cursor, **filters))
            yield list(answer.body)
            cursor = answer.headers.get("fly-next-cursor", "")
            if not cursor:
                return

    def list(self, app: str, **filters: Any) -> Iterator[Json]:
        for page in self.pages(app, **filters):
            yield from page

    def get(self, app: str, machine: str) -> Json:
        return self._json(machines.get_machine(app, machine))

    def create(
        self, app: str, config: Json, *, name: str = "", region: str = "", skip_launch: bool = False
    ) -> Json:
        return self._json(machines.create(app, config, name=name, region=region, skip_launch=skip_launch))

    def update(self, app: str, machine: str, config: Json, **options: Any) -> Json:
        return self._json(machines.update(app, machine, config, **options))

    def start(self, app: str, machine: str) -> Json:
        return self._json(machines.start(app, machine))

    def stop(self, app: str, machine: str, *, signal: str = "", timeout: str = "") -> None:
        self._transport.send(machines.stop(app, machine, signal=signal, timeout=timeout))

    def restart(
        self, app: str, machine: str, *, signal: str = "", timeout: str = "", force: bool = False
    ) -> None:
        self._transport.send(machines.restart(app, machine, signal=signal, timeout=timeout, force=force))

    def suspend(self, app: str, machine: str) -> None:
        self._transport.send(machines.suspend(app, machine))

    def cordon(self, app: str, machine: str, *, cordoned: bool) -> None:
        self._transport.send(machines.cordon(app, machine, cordoned=cordoned))

    def signal(self, app: str, machine: str, name: str | int) -> None:
        self._transport.send(machines.signal(app, machine, name))

    def destroy(self, app: str, machine: str, *, force: bool = False) -> None:
        self._transport.send(machines.destroy(app, machine, force=force))

    def events(self, app: str, machine: str, *, limit: int = machines.EVENTS_MAX) -> JsonList:
        """Newest first."""
        return list(self._transport.send(machines.events(app, machine, limit=limit)).body)

    def phases(self, app: str, machine: str, *, limit: int = 1) -> JsonList:
        """The named phases of the latest starts, newest first."""
        return list(self._transport.send(machines.phases(app, machine, limit=limit)).body)

    def processes(self, app: str, machine: str) -> JsonList:
        return list(self._transport.send(machines.processes(app, machine)).body)

    def set_metadata(self, app: str, machine: str, changes: Mapping[str, str | None]) -> None:
        self._transport.send(machines.set_metadata(app, machine, changes))

    def logs(self, app: str, machine: str, **options: Any) -> AbstractContextManager[Lines]:
        """Lines of JSON, as they come; `options` as `midge.client.machines.logs` takes them."""
        return self._transport.lines(machines.logs(app, machine, **options))

    def wait(
        self,
        app: str,
        machine: str,
        states: tuple[str, ...],
        *,
        timeout_s: float,
        version: str = "",
        from_event_id: str = "",
    ) -> dict[str, str]:
        """See `midge.client.wait.wait`."""
        return wait(
            self._transport.send,
            self._monotonic,
            app,
            machine,
            states,
            timeout_s=timeout_s,
            version=version,
            from_event_id=from_event_id,
        )

    def exec(self, app: str, machine: str, start: Json) -> AbstractContextManager[ExecSession]:
        """A command in a machine, see `midge.client.execution.start_message`."""
        return execute(self._transport, machines.exec_socket(app, machine), start)

    def connect(self, app: str, machine: str, port: int) -> AbstractContextManager[Connection]:
        """One connection to a port of a machine."""
        return connect(self._transport, machines.proxy_socket(app, machine), f"port={port}")

    def _json(self, request: Request) -> Json:
        return dict(self._transport.send(request).body or {})


class Images:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> JsonList:
        return list(self._transport.send(images.list_images()).body)

    def pull(self, reference: str, progress: Callable[[Json], None]) -> JsonList:
        """The images that came. `progress` gets ``{"phase", "subject", "done_bytes", "total_bytes"}``."""
        return self._transfer(images.pull(reference), progress)

    def import_archive(
        self, content: Iterable[bytes], progress: Callable[[Json], None], *, name: str = ""
    ) -> JsonList:
        return self._transfer(images.import_archive(content, name=name), progress)

    def remove(self, reference: str) -> Json:
        return dict(self._transport.send(images.remove(reference)).body or {})

    def prune(self, *, everything: bool = False) -> Json:
        return dict(self._transport.send(images.prune(everything=everything)).body or {})

    def _transfer(self, request: Request, progress: Callable[[Json], None]) -> JsonList:
        with self._transport.lines(request) as lines:
            for line in lines:
                fields: Json = json.loads(line)
                if "error" in fields:
                    raise from_response(OK, line, {})
                if "images" in fields:
                    return list(fields["images"])
                progress(fields)
        raise TransportError(f"{request.path}: the server broke off without a result")


class Server:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def version(self) -> Json:
        return dict(self._transport.send(server.version()).body)

    def ready(self) -> Json:
        return dict(self._transport.send(server.ready()).body)

    def status(self) -> Json:
        return dict(self._transport.send(server.status()).body)

    def config(self) -> Json:
        return dict(self._transport.send(server.config()).body)

    def regions(self) -> Json:
        return dict(self._transport.send(server.regions()).body)

    def machines(self, org: str, **filters: Any) -> Iterator[Json]:
        """The machines of all apps of an organization; `filters` as `midge.client.server.org_machines` takes them."""
        cursor = ""
        for _ in range(PAGES_MAX):
            body = self._transport.send(server.org_machines(org, cursor=cursor, **filters)).body
            yield from body["machines"]
            cursor = body.get("next_cursor") or ""
            if not cursor:
                return
