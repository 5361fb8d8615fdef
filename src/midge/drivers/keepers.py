"""A driver's tasks in the background, which must not end without anybody noticing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from midge.errors import chain

RESTART_FIRST_S = 0.5  # pause after a keeper has failed; doubled each time up to the maximum
RESTART_MAX_S = 60.0

_log = structlog.get_logger("midge.keepers")


class Keepers:
    """Tasks that run until `aclose`. One that fails is a bug: it is logged with its trace, and begun again."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Has `run`, which must not return, run for as long as the driver is open."""
        self._tasks.append(asyncio.create_task(_keep(name, run), name=name))

    async def aclose(self) -> None:
        """Cancels them all and waits until they have ended. Repeatable."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _keep(name: str, run: Callable[[], Awaitable[None]]) -> None:
    pause_s = RESTART_FIRST_S
    while True:
        try:
            await run()
            _log.error("keeper has ended; it is begun again", keeper=name, pause_s=pause_s)
        except Exception as error:
            _log.error(
                "keeper failed; it is begun again",
                keeper=name,
                pause_s=pause_s,
                error=chain(error),
                exc_info=error,
            )
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, RESTART_MAX_S)
