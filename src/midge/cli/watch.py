"""Showing something again and again: redrawn on a terminal, one document a line for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from midge.cli.session import Session

# Seconds between two looks: short enough to follow a start, cheap for the server.
INTERVAL_S = 2.0


def repeat(session: Session, show: Callable[[], None], *, watch: bool) -> None:
    """Calls `show` once, or with `watch` until Ctrl-C, which is how watching ends well."""
    if not watch:
        show()
        return
    redraw = sys.stdout.isatty() and not session.out.json
    try:
        while True:
            if redraw:
                session.out.clear()
            show()
            time.sleep(INTERVAL_S)
    except KeyboardInterrupt:
        return
