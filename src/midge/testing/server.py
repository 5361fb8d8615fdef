"""A server in the test's own process, on a port of the kernel's choosing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from midge.server.assembly import HostOpener, OpenHost, RunningServer, running
from midge.server.paths import Paths
from midge.server.settings import Settings
from midge.testing.host import staged_host


@asynccontextmanager
async def open_staged_host(settings: Settings, paths: Paths) -> AsyncIterator[OpenHost]:
    """A `StagedHost`: no image store, no driver that needs anything of the machine it runs on."""
    async with staged_host(paths.data_dir / "staged", region=settings.region) as host:
        yield OpenHost(host=host)


def settings_for_tests(data_dir: Path, **changes: Any) -> Settings:
    """Settings fit for a test: any port, short waits, everything below `data_dir`."""
    settings = Settings(
        data_dir=str(data_dir), run_dir=str(data_dir / "run"), listen="127.0.0.1:0", drain_timeout_s=1
    )
    return msgspec.structs.replace(settings, **changes)


@asynccontextmanager
async def running_server(
    data_dir: Path, *, open_host: HostOpener = open_staged_host, **changes: Any
) -> AsyncIterator[RunningServer]:
    """`running` with `settings_for_tests`; `changes` are members of `Settings`."""
    async with running(settings_for_tests(data_dir, **changes), open_host) as server:
        yield server
