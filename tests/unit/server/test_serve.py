"""Signals at any time, also while the server is still starting."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from midge.server.assembly import OpenHost
from midge.server.paths import Paths
from midge.server.serve import serve
from midge.server.settings import Settings
from midge.testing.host import staged_host
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio


def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=str(tmp_path / "data"), run_dir=str(tmp_path / "run"), listen="127.0.0.1:0")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_stop_while_it_starts_it_gives_back_what_it_took(
    tmp_path: Path, signum: signal.Signals
) -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def open_host(settings: Settings, paths: Paths) -> AsyncIterator[OpenHost]:
        steps.append("took")
        try:
            os.kill(os.getpid(), signum)
            await asyncio.sleep(30)
            async with staged_host(tmp_path / "host") as host:
                yield OpenHost(host=host)
        finally:
            await asyncio.sleep(0)
            steps.append("gave back")

    task = asyncio.create_task(serve(settings(tmp_path), open_host))
    async with asyncio.timeout(PATIENCE_S):
        assert await task == 0
    assert steps == ["took", "gave back"]
    assert not (tmp_path / "data" / "server.json").exists()


async def test_a_second_signal_does_not_break_off_the_giving_back(tmp_path: Path) -> None:
    given_back = False

    @asynccontextmanager
    async def open_host(settings: Settings, paths: Paths) -> AsyncIterator[OpenHost]:
        nonlocal given_back
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(30)
            async with staged_host(tmp_path / "host") as host:
                yield OpenHost(host=host)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
            given_back = True

    task = asyncio.create_task(serve(settings(tmp_path), open_host))
    async with asyncio.timeout(PATIENCE_S):
        assert await task == 0
    assert given_back


async def test_whoever_cancels_it_otherwise_sees_that(tmp_path: Path) -> None:
    began = asyncio.Event()

    @asynccontextmanager
    async def open_host(settings: Settings, paths: Paths) -> AsyncIterator[OpenHost]:
        began.set()
        await asyncio.sleep(30)
        async with staged_host(tmp_path / "host") as host:
            yield OpenHost(host=host)

    task = asyncio.create_task(serve(settings(tmp_path), open_host))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
