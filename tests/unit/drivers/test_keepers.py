"""A task in the background that fails is said to have failed, and goes on."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from midge.drivers import keepers
from midge.drivers.keepers import Keepers
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio


async def test_a_keeper_that_fails_is_logged_and_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "RESTART_FIRST_S", 0.001)
    again = asyncio.Event()
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("a bug")
        again.set()
        await asyncio.Event().wait()

    tasks = Keepers()
    with structlog.testing.capture_logs() as logs:
        tasks.begin("sweeper", run)
        async with asyncio.timeout(PATIENCE_S):
            await again.wait()
    assert [(entry["keeper"], entry["error"]) for entry in logs] == [("sweeper", "a bug")]
    await tasks.aclose()
    await tasks.aclose()
    assert runs == 2


async def test_closing_waits_until_a_keeper_has_put_its_things_away() -> None:
    begun = asyncio.Event()
    put_away = False

    async def run() -> None:
        nonlocal put_away
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            put_away = True

    tasks = Keepers()
    tasks.begin("keeper", run)
    await begun.wait()
    await tasks.aclose()
    assert put_away
