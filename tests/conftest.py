"""Fixtures every test may use, and a parent like a shell for what tests start."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# Examples are counted, not timed: other tests have the processors, too.
settings.register_profile("midge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("midge")

# Python's own choice; subprocess gives children the default back.
_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def pytest_configure(config: pytest.Config) -> None:
    """Programs inherit umask and ignored signals, and some CI runners have strange ones: a background job ignores ^C.

    Tests press it, and make trees for other users to read. What Midge does under a strange parent has tests of its
    own: tests/e2e/test_parent.py.
    """
    os.umask(0o022)
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture
def anyio_backend() -> str:
    """Midge runs on asyncio alone."""
    return "asyncio"
