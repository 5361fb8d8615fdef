"""Standard streams for a process whose parent has closed them."""

from __future__ import annotations

import os
import sys


def ensure_standard_streams() -> None:
    """Opens the null device as standard input, output or error where the parent left it closed (`midge … <&-`).

    Otherwise the first files opened would get their numbers: a message for people would go into a database, and event
    loops refuse such descriptors. For the beginning of a program, before it opens anything.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
