"""Commands in a machine over a websocket: the messages, and a session that speaks them.

The first message says what to run. Binary messages begin with a byte that names the stream; texts are JSON: from us
`resize`, `signal` and `close_stdin`, from the server the exit or an error, which is the last message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from midge.client.failures import TransportError, from_response
from midge.client.websocket import Closed, Connection, connect

if TYPE_CHECKING:
    from midge.client.transport import Transport

STDIN, STDOUT, STDERR = 0, 1, 2

# Of standard input in one message, in bytes.
CHUNK_BYTES = 32 * 1024

Stream = Literal["stdout", "stderr"]

# The status of an error that comes inside an accepted websocket: it has none of its own.
_ACCEPTED = 101


@dataclass(frozen=True, slots=True)
class Chunk:
    """Output of the command."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class Exit:
    """How the command ended: `exit_code` 128+n when `signal` n ended it."""

    exit_code: int
    signal: int = 0
    timed_out: bool = False
    oom_killed: bool = False


def start_message(
    argv: list[str],
    *,
    env: dict[str, str] | None = None,
    user: str = "",
    cwd: str = "",
    tty: tuple[int, int] | None = None,
    stdin: bool = False,
    timeout_s: int = 0,
) -> dict[str, Any]:
    """What to run. `tty` is (rows, columns), or None for no terminal; `timeout_s` 0: no limit."""
    message: dict[str, Any] = {"command": argv, "stdin": stdin}
    if tty is not None:
        message |= {"tty": True, "rows": tty[0], "cols": tty[1]}
    for name, value in (("env", env), ("user", user), ("cwd", cwd), ("timeout", timeout_s)):
        if value:
            message[name] = value
    return message


def parse(message: str | bytes) -> Chunk | Exit:
    """One message of the server.

    Raises:
        TransportError: it is none of ours.
        MidgeError: it is an error.
    """
    if isinstance(message, bytes):
        if message[:1] not in (b"\x01", b"\x02"):
            raise TransportError("the server sent output of an unknown stream")
        return Chunk("stdout" if message[0] == STDOUT else "stderr", message[1:])
    try:
        fields = json.loads(message)
    except ValueError as error:
        raise TransportError("the server sent a message that is not JSON") from error
    if isinstance(fields, dict) and "error" in fields:
        raise from_response(_ACCEPTED, message.encode(), {})
    if not isinstance(fields, dict) or not isinstance(fields.get("exit_code"), int):
        raise TransportError("the server sent an unknown message")
    return Exit(
        fields["exit_code"],
        int(fields.get("signal", 0)),
        bool(fields.get("timed_out")),
        bool(fields.get("oom_killed")),
    )


class ExecSession:
    """A command that runs. Iterate over `output`; then `exit` is set."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.exit: Exit | None = None

    def output(self) -> Iterator[Chunk]:
        """What the command writes, in order, until it has ended."""
        while True:
            try:
                message = parse(self._connection.receive())
            except Closed as error:
                raise TransportError(
                    "the connection broke before the command ended",
                    hint="the command was killed with it; run it again",
                ) from error
            if isinstance(message, Exit):
                self.exit = message
                return
            yield message

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            self._connection.send(bytes([STDIN]) + data[start : start + CHUNK_BYTES])

    def close_stdin(self) -> None:
        self._control(close_stdin=True)

    def resize(self, rows: int, cols: int) -> None:
        self._control(resize={"rows": rows, "cols": cols})

    def signal(self, name: str) -> None:
        self._control(signal=name)

    def _control(self, **members: Any) -> None:
        self._connection.send(json.dumps(members))


@contextmanager
def execute(transport: Transport, path: str, start: dict[str, Any]) -> Iterator[ExecSession]:
    """Runs a command; leaving kills it if it still runs."""
    with connect(transport, path) as connection:
        connection.send(json.dumps(start))
        yield ExecSession(connection)
