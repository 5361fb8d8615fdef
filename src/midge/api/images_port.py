"""What the api needs of the image store; `midge.images.store.ImageStore` has it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from midge.images.model import Image, ImageSummary, PruneReport, RemoveReport
from midge.images.progress import Progress

_Images = list[Image]
_Summaries = list[ImageSummary]


class ImagesPort(Protocol):
    async def pull(self, reference: str, *, progress: Progress | None = None) -> Image: ...

    async def import_path(
        self, path: Path, *, tag: str | None = None, progress: Progress | None = None
    ) -> _Images: ...

    def list(self) -> _Summaries: ...

    async def remove(self, reference_or_digest: str, *, in_use: Collection[str]) -> RemoveReport: ...

    async def prune(self, *, in_use: Collection[str], keep_tagged: bool = True) -> PruneReport: ...
