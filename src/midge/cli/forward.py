"""Accepts connections on a local port and carries each over a websocket of its own."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

from midge.cli.exits import UsageFailure
from midge.cli.session import Session
from midge.cli.targets import Target
from midge.client.websocket import Closed, Connection
from midge.errors import MidgeError, chain

# Connections carried at a time; more wait in the listening socket.
CONNECTIONS_MAX = 128

# Read from a connection at once, in bytes.
CHUNK_BYTES = 64 * 1024

# The text message by which one side says that it will send no more.
EOF = "eof"

# How long leaving waits for the threads, in seconds; their sockets are shut down by then.
JOIN_TIMEOUT_S = 5.0


class Forwarder:
    """Listens from entering until leaving; leaving ends all connections."""

    def __init__(self, session: Session, target: Target, remote: int, host: str, port: int) -> None:
        self._session = session
        self._target = target
        self._remote = remote
        self._wanted = (host, port)
        self._room = threading.Semaphore(CONNECTIONS_MAX)
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._listener: socket.socket | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._listener is not None
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def __enter__(self) -> Forwarder:
        host, port = self._wanted
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise UsageFailure(
                f"cannot listen on {host}:{port}", hint="take another local port, or 0"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        with self._lock:
            running = dict(self._open)
        for connection in running.values():
            _shut(connection, socket.SHUT_RDWR)
        for thread in running:
            thread.join(JOIN_TIMEOUT_S)

    def serve(self) -> None:
        """Accepts until the listener is closed or KeyboardInterrupt."""
        assert self._listener is not None
        while True:
            self._room.acquire()
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._carry, args=(connection, peer), daemon=True)
            with self._lock:
                self._open[thread] = connection
            thread.start()

    def _carry(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        machines, target = self._session.client.machines, self._target
        try:
            with connection, machines.connect(target.app, target.id, self._remote) as tunnel:
                upward = threading.Thread(target=_to_machine, args=(connection, tunnel), daemon=True)
                upward.start()
                _to_client(connection, tunnel)
                _shut(connection, socket.SHUT_RD)
                upward.join(JOIN_TIMEOUT_S)
        except MidgeError as error:
            self._session.out.warn(f"{peer[0]}:{peer[1]}: {chain(error)}")
        finally:
            with self._lock:
                self._open.pop(threading.current_thread(), None)
            self._room.release()


def _to_machine(connection: socket.socket, tunnel: Connection) -> None:
    try:
        while data := connection.recv(CHUNK_BYTES):
            tunnel.send(data)
        tunnel.send(EOF)
    except (OSError, Closed):
        return


def _to_client(connection: socket.socket, tunnel: Connection) -> None:
    """Until the server closes: it does so when both directions have ended."""
    try:
        while True:
            message = tunnel.receive()
            if isinstance(message, bytes):
                connection.sendall(message)
            else:
                _shut(connection, socket.SHUT_WR)
    except (OSError, Closed):
        return


def _shut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        # The other side was quicker.
        return
