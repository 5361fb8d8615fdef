"""Websockets to the server: the same tokens, addresses and errors as requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from midge.client.failures import TransportError, from_response
from midge.client.request import CONNECT_TIMEOUT_S, USER_AGENT

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from midge.client.transport import Transport

# Largest message taken, in bytes; the server sends output in pieces of 64 KiB.
MESSAGE_MAX_BYTES = 1024 * 1024

# Messages that wait here for a slow reader. Then the socket is not read any more, and the server waits.
QUEUE_MAX = 16

# Seconds between pings, and until a silent server counts as gone: connections through NAT die quietly.
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 20.0

# How long the server may take to accept, in seconds: it connects to the machine's port first.
OPEN_TIMEOUT_S = CONNECT_TIMEOUT_S + 10.0

# How long a close may take, in seconds. The command has ended by then; nobody waits for politeness.
CLOSE_TIMEOUT_S = 2.0


class Closed(Exception):
    """The server closed the connection. `reason` is empty when it had nothing to say."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason or "closed")
        self.reason = reason


class Connection:
    """An open websocket. One thread may receive while another one sends."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def receive(self) -> str | bytes:
        """The next message. Raises Closed."""
        from websockets.exceptions import ConnectionClosed

        try:
            return self._socket.recv()
        except ConnectionClosed as error:
            raise Closed(error.rcvd.reason if error.rcvd else "") from error

    def send(self, message: str | bytes) -> None:
        """Blocks while the server is busy. Raises Closed."""
        from websockets.exceptions import ConnectionClosed

        try:
            self._socket.send(message)
        except ConnectionClosed as error:
            raise Closed(error.rcvd.reason if error.rcvd else "") from error

    def close(self) -> None:
        self._socket.close()


@contextmanager
def connect(transport: Transport, path: str, query: str = "") -> Iterator[Connection]:
    """Opens a websocket and closes it on leaving.

    Raises:
        TransportError: nobody answers, or no websocket is spoken.
        MidgeError: the server refused; the class as for requests.
    """
    with _open(transport, path + (f"?{query}" if query else "")) as socket:
        yield Connection(socket)


def _open(transport: Transport, target: str) -> ClientConnection:
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.sync.client import connect as dial

    endpoint = transport.endpoint
    url = endpoint.url.value
    arguments: dict[str, Any] = {
        "additional_headers": {"authorization": transport.headers()["authorization"]}
        if endpoint.token.value
        else {},
        "user_agent_header": USER_AGENT,
        "open_timeout": OPEN_TIMEOUT_S,
        "close_timeout": CLOSE_TIMEOUT_S,
        "ping_interval": PING_INTERVAL_S,
        "ping_timeout": PING_TIMEOUT_S,
        "max_size": MESSAGE_MAX_BYTES,
        "max_queue": QUEUE_MAX,
        # Output is bytes of a program: compressing it costs more time than it saves on a local network.
        "compression": None,
        "proxy": None if endpoint.is_loopback else True,
    }
    if url.startswith("https://"):
        arguments["ssl"] = transport.tls()
    try:
        socket: ClientConnection = dial("ws" + url.removeprefix("http") + target, **arguments)
        return socket
    except InvalidStatus as error:
        response = error.response
        headers = {name.lower(): value for name, value in response.headers.raw_items()}
        raise from_response(response.status_code, bytes(response.body or b""), headers) from error
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise TransportError(
            f"no server answers at {url}",
            hint=f"see `midge status` (the address is from {endpoint.url.origin})",
        ) from error
