"""A terminal for the command line under test."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.deadlines import PATIENCE_S
from tests.integration.cli.conftest import Midge

TIMEOUT_S = PATIENCE_S
MIDGE = [sys.executable, "-m", "midge.cli.main"]


def environment(midge: Midge) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}
    return {**kept, **midge.env, "MIDGE_APP": midge.app, "TERM": "xterm"}


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, midge: Midge, *args: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(30, 100)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            # `--ctty` makes it the session's own terminal, so that Ctrl-C is a signal.
            ["setsid", "--ctty", *MIDGE, *args],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment(midge),
            cwd=midge.cwd,
        )
        self.seen = b""

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def until(self, text: bytes) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, self.seen
            ready, _, _ = select.select([self.master], [], [], left)
            if ready:
                self.seen += os.read(self.master, 65536)

    def until_raw(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while termios.tcgetattr(self.slave)[3] & termios.ICANON:
            assert time.monotonic() < deadline
            select.select([], [], [], 0.02)

    def wait(self) -> int:
        return self.process.wait(TIMEOUT_S)


@contextmanager
def terminal(midge: Midge, *args: str) -> Iterator[Terminal]:
    opened = Terminal(midge, *args)
    try:
        yield opened
    finally:
        if opened.process.poll() is None:
            opened.process.kill()
        opened.process.wait()
        os.close(opened.master)
        os.close(opened.slave)
