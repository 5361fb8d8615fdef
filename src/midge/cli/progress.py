"""What a waiting user sees on stderr: a line a step, redrawn while it lasts where that is possible."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from midge.cli.output import Output

_ERASE = "\r\x1b[K"


@contextmanager
def step(out: Output, doing: str, done: str = "") -> Iterator[None]:
    """``doing …`` while the body runs, then ``done (1.2s)``.

    In logs there is only the second line; an empty `done` gives none. A body that raises leaves the terminal clean
    for the error.
    """
    redraw = out.redraws() and not out.json
    began = time.monotonic()
    if redraw:
        sys.stderr.write(f"{doing} ...")
        sys.stderr.flush()
    try:
        yield
    finally:
        if redraw:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()
    if done:
        out.note(f"{done} ({time.monotonic() - began:.1f}s)")
