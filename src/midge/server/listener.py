"""The listening socket and the HTTP server on it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn

from midge.api.dispatch import Api
from midge.errors import Conflict, InvalidInput
from midge.server.settings import Settings

BACKLOG = 2048  # connections waiting to be accepted
KEEP_ALIVE_S = 75  # idle time of a connection; clients keep theirs for 60 s and less
TCP_KEEPIDLE_S = 30  # then the kernel asks whether the client is still there
TCP_KEEPINTVL_S = 10
TCP_KEEPCNT = 3
WS_MESSAGE_BYTES_MAX = 4 * 1024 * 1024


class HttpServer(uvicorn.Server):
    """uvicorn inside our own loop; signals are ours."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def bind(settings: Settings) -> socket.socket:
    """A bound, not yet listening socket.

    TCP keep-alive finds clients that vanished; websocket pings would instead cut off connections whose reading is
    paused because a command does not take its input.

    Raises:
        InvalidInput: the address is not one of this host.
        Conflict: it is in use.
    """
    host, port = settings.address
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidInput(f"listen: {host!r} is no address of this host") from error
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, TCP_KEEPIDLE_S),
        (socket.TCP_KEEPINTVL, TCP_KEEPINTVL_S),
        (socket.TCP_KEEPCNT, TCP_KEEPCNT),
    ):
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise Conflict(
            f"listen: cannot listen on {settings.listen}: {error.strerror}",
            hint="another server may be running there; choose another --listen",
        ) from error
    return listener


def url_of(listener: socket.socket, *, tls: bool) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}"


def http_server(api: Api, settings: Settings) -> HttpServer:
    config = uvicorn.Config(
        api,
        loop="none",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=WS_MESSAGE_BYTES_MAX,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )
    return HttpServer(config)


async def until_started(server: HttpServer, task: asyncio.Task[None]) -> None:
    """Returns when connections are accepted. Raises what kept the server from it."""
    while not server.started:
        if task.done():
            task.result()
            raise Conflict("the HTTP server ended before it had started")
        await asyncio.sleep(0)
