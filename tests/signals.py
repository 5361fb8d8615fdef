"""Signals a parent has ignored, as CI runners and C libraries leave them."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import struct
from collections.abc import Iterator

_SYS_RT_SIGACTION = 13  # x86_64
_SIGSET_BYTES = 8
_SIG_IGN = 1


@contextlib.contextmanager
def ignored(*numbers: int) -> Iterator[None]:
    """Ignores signals in this process for a while, those the C library keeps for itself (32 to 34) too."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = {number: ctypes.create_string_buffer(32) for number in numbers}
    action = ctypes.create_string_buffer(struct.pack("QQQQ", _SIG_IGN, 0, 0, 0), 32)
    for number, old in before.items():
        assert libc.syscall(_SYS_RT_SIGACTION, number, action, old, _SIGSET_BYTES) == 0, number
    try:
        yield
    finally:
        for number, old in before.items():
            assert libc.syscall(_SYS_RT_SIGACTION, number, old, None, _SIGSET_BYTES) == 0, number


#: One a program may ignore, one of the C library's own, the last one there is.
SAMPLES = (signal.SIGHUP, 32, 64)
