"""One error out of many."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def single(work: Awaitable[T]) -> T:
    """Awaits `work`; of a group of exceptions, as a TaskGroup raises it, the first one counts."""
    try:
        return await work
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from group
