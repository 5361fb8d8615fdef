"""Threads, and other work, that nobody leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def joined(work: Awaitable[T]) -> T:
    """Does not end before `work` does, not even when cancelled; the cancellation is raised afterwards.

    For what must not be left half done: whoever is cancelled finds it either not begun or complete.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at: the cancellation is what counts
        raise cancelled
    return task.result()


async def all_of(*work: Awaitable[object]) -> None:
    """Runs all at once and each to its end, whatever becomes of the others; then raises the first error, in order.

    A cancellation cancels them all, and is raised when all have ended.
    """
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def joined_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`, but does not end before the thread does, not even when cancelled.

    For work on descriptors or files that the caller closes or removes afterwards: a thread that went on would write
    into whatever has got the descriptor's number by then.
    """
    return await joined(asyncio.to_thread(function, *args, **kwargs))
