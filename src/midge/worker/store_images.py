"""The worker's `Images` on the host's image store."""

from __future__ import annotations

from midge.images.store import ImageStore
from midge.worker.host import ImageRefView
from midge.worker.record import ImageProcess, ImageResult


class StoreImages:
    """See `midge.worker.parts.Images`."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    async def resolve(self, reference: str) -> ImageRefView:
        found = await self._store.resolve(reference)
        return ImageRefView(
            registry=found.registry, repository=found.repository, tag=found.tag, digest=found.digest
        )

    async def fetch(self, ref: ImageRefView) -> ImageResult:
        """By digest: a tag that moved in between does not matter."""
        image = self._store.find(ref.digest)
        if image is None:
            image = await self._store.ensure(f"{ref.registry}/{ref.repository}@{ref.digest}")
        config = image.config
        return ImageResult(
            ref=ImageRefView(
                registry=ref.registry,
                repository=ref.repository,
                tag=ref.tag,
                digest=ref.digest,
                labels=config.labels or None,
            ),
            process=ImageProcess(
                entrypoint=config.entrypoint,
                cmd=config.cmd,
                env=config.env,
                working_dir=config.working_dir,
                user=config.user,
            ),
        )
