"""Telling whoever waits for an image how far it is."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

Phase = Literal["resolving", "downloading", "unpacking", "building rootfs", "done"]


class ProgressEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A step forward. `done_bytes` and `total_bytes` are 0 where the phase has no size.

    Attributes:
        subject: the reference, or the digest of the layer it is about.
    """

    phase: Phase
    subject: str
    done_bytes: int = 0
    total_bytes: int = 0


class Progress(Protocol):
    """Called in the event loop's thread; must not block. What it raises is not caught."""

    def __call__(self, event: ProgressEvent, /) -> None: ...


def silent(event: ProgressEvent, /) -> None:
    """Progress for nobody."""
