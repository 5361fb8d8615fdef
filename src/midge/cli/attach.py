"""A remote command on this terminal: its output here, our input there, its exit code ours.

Two threads: this one writes what comes, the other one sends what is typed, and the terminal's size when it changes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from midge.cli import exits, terminal
from midge.cli.output import Output
from midge.client.execution import ExecSession
from midge.client.failures import TransportError
from midge.client.websocket import Closed

# How long the sending thread may take to notice the end, in seconds; it waits for nothing but the wakeup by then.
JOIN_TIMEOUT_S = 5.0


def attach(session: ExecSession, out: Output, *, stdin: bool, tty: bool) -> int:
    """Runs until the command has ended; returns the exit code for this program."""
    with ExitStack() as stack:
        if tty and stdin:
            # Else nobody would read the keys, and Ctrl-C is to end this program.
            stack.enter_context(terminal.raw())
        stack.enter_context(_sending(session, stdin=stdin, tty=tty))
        for chunk in session.output():
            out.raw(chunk.data, to_stderr=chunk.stream == "stderr")
    ended = session.exit
    if ended is None:
        raise TransportError("the command ended without an exit code")
    if ended.timed_out:
        out.warn("the command ran out of time and was killed")
    elif ended.oom_killed:
        out.warn("the command was killed: the machine is out of memory")
    return exits.remote(ended.exit_code, ended.signal)


@contextmanager
def _sending(session: ExecSession, *, stdin: bool, tty: bool) -> Iterator[None]:
    if not (stdin or tty):
        yield
        return
    wakeup, stop = terminal.Wakeup(), threading.Event()
    sender = threading.Thread(
        target=_send, args=(session, wakeup, stop, stdin, tty), name="midge-stdin", daemon=True
    )
    with ExitStack() as stack:
        if tty:
            stack.enter_context(terminal.resized(wakeup))
        sender.start()
        try:
            yield
        finally:
            stop.set()
            wakeup.set()
            sender.join(JOIN_TIMEOUT_S)
    if not sender.is_alive():
        wakeup.close()


def _send(
    session: ExecSession, wakeup: terminal.Wakeup, stop: threading.Event, stdin: bool, tty: bool
) -> None:
    """Ends at `stop`, or when the connection does."""
    source = terminal.stdin_descriptor() if stdin else None
    size = terminal.size()
    try:
        if stdin and source is None:
            session.close_stdin()
        while not stop.is_set():
            data, _ = terminal.read_ready(source, wakeup)
            if stop.is_set():
                return
            if tty and terminal.size() != size:
                size = terminal.size()
                session.resize(*size)
            if data:
                session.write(data)
            elif data == b"":
                session.close_stdin()
                source = None
    except Closed:
        # The receiving thread learns why.
        return
