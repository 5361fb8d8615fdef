"""The user's terminal: raw while a remote program owns it, and given back whatever happens."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

# Read from stdin at once, in bytes.
READ_BYTES = 32 * 1024

# Signals that end a program without asking; the terminal must be given back first.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def size() -> tuple[int, int]:
    """(rows, columns) of the terminal, 24 by 80 without one. What LINES and COLUMNS say is for our output alone."""
    for stream in (sys.__stdout__, sys.__stdin__, sys.__stderr__):
        with suppress(AttributeError, ValueError, OSError):
            found = os.get_terminal_size(stream.fileno())  # type: ignore[union-attr]  # None: AttributeError
            if found.lines and found.columns:
                return found.lines, found.columns
    return 24, 80


def stdin_descriptor() -> int | None:
    """Of stdin; None when it was closed before we began (``midge … <&-``)."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, ValueError, OSError):
        return None


def stdin_is_terminal() -> bool:
    descriptor = stdin_descriptor()
    return descriptor is not None and os.isatty(descriptor)


@contextmanager
def raw() -> Iterator[None]:
    """Keys go through one by one and unprinted, Ctrl-C too. Restored on leaving, also by SIGTERM and SIGHUP."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, _end) for number in _ENDING}
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


class Wakeup:
    """A pipe that a signal handler or another thread may write to, and `select` can wait for."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._reader

    def set(self) -> None:
        """Safe in a signal handler: a full pipe already wakes."""
        try:
            os.write(self._writer, b"!")
        except BlockingIOError:
            return

    def clear(self) -> None:
        try:
            while os.read(self._reader, 64):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


@contextmanager
def resized(wakeup: Wakeup) -> Iterator[None]:
    """Sets `wakeup` whenever the terminal changes its size."""

    def handler(number: int, frame: FrameType | None) -> None:
        wakeup.set()

    before = signal.signal(signal.SIGWINCH, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def read_ready(descriptor: int | None, wakeup: Wakeup) -> tuple[bytes | None, bool]:
    """Waits for input or the wakeup.

    Returns:
        What was read (b"" at the end of the input, None if nothing), and whether the wakeup was set. With no
        descriptor only the wakeup counts.
    """
    watched = [wakeup.fileno()] if descriptor is None else [descriptor, wakeup.fileno()]
    ready, _, _ = select.select(watched, [], [])
    woken = wakeup.fileno() in ready
    if woken:
        wakeup.clear()
    if descriptor is None or descriptor not in ready:
        return None, woken
    try:
        return os.read(descriptor, READ_BYTES), woken
    except OSError:
        # A terminal that was hung up: nothing more will come.
        return b"", woken
