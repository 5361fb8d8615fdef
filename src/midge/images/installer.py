"""Brings a resolved image into the store: fetch what is missing, unpack it, publish it, record it.

    LayerFetcher.open ─► unpack into tmp/ ─► syncfs ─► layers/<diff_id> ─► all there? ─► images/*.json, tags.json

A layer is published whole or not at all, and an image is recorded after its last layer: a crash at any point
leaves nothing but files in tmp/ (removed at the next start) and complete layers (used again, or collected).
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from midge.errors import ImageInvalid
from midge.images.catalog import Catalog, as_asked
from midge.images.flight import Flights, in_thread
from midge.images.fs import (
    remove_tree,
    require_space,
    space_errors,
    sync_file_system,
    sync_path,
    write_atomically,
)
from midge.images.layers import LayerSpec, unpack_layer
from midge.images.limits import EXPECTED_GROWTH, PARALLEL_LAYERS, ImageLimits, exceeded
from midge.images.model import Image, LayerInfo
from midge.images.paths import StorePaths
from midge.images.pins import Pins
from midge.images.progress import Progress, ProgressEvent
from midge.images.reference import is_digest
from midge.images.source import ResolvedImage


class LayerFetcher(Protocol):
    """Where layers come from: a registry, an archive, a layout."""

    async def open(self, layer: LayerSpec, progress: Progress) -> BinaryIO:
        """The layer as stored, ready to be read in a thread."""

    async def done(self, layer: LayerSpec) -> None:
        """The layer is unpacked and published: its stored form is not needed any more."""


class Installer:
    """Owns everything between a resolved image and its entry in the catalog."""

    def __init__(
        self, paths: StorePaths, catalog: Catalog, flights: Flights, pins: Pins, limits: ImageLimits
    ) -> None:
        self._paths = paths
        self._catalog = catalog
        self._flights = flights
        self._pins = pins
        self._limits = limits

    async def install(self, image: ResolvedImage, fetcher: LayerFetcher, progress: Progress) -> Image:
        """Fetches, unpacks and records an image.

        Raises:
            ImageInvalid, OutOfSpace, and whatever the fetcher raises.
        """
        for layer in image.layers:
            if not is_digest(layer.diff_id):
                raise ImageInvalid(f"{layer.diff_id[:80]!r} is not a sha256 digest")
        documents = {image.digest: image.manifest, image.config_digest: image.config}
        held = [*documents, *(layer.diff_id for layer in image.layers)]
        held += [layer.digest for layer in image.layers if layer.digest]
        async with self._pins.hold(held):
            await asyncio.to_thread(self._check_space, image)
            infos = await self._layers(image, fetcher, progress)
            for digest, data in documents.items():
                await asyncio.to_thread(self._write, digest, data)
            return await self._record(image, infos)

    async def _record(self, image: ResolvedImage, infos: list[LayerInfo]) -> Image:
        document = image.document
        recorded = Image(
            digest=image.digest,
            config_digest=image.config_digest,
            registry=image.parts.registry,
            repository=image.parts.repository,
            tag=image.parts.tag,
            index_digest=image.index_digest,
            config=document.run(),
            diff_ids=[layer.diff_id for layer in image.layers],
            size_bytes=sum(info.unpacked_bytes for info in infos),
            created=document.created or "",
            architecture=document.architecture,
            variant=document.variant,
        )
        await self._catalog.record(recorded, image.refs)
        return as_asked(recorded, image.parts)

    async def _layers(
        self, image: ResolvedImage, fetcher: LayerFetcher, progress: Progress
    ) -> list[LayerInfo]:
        """All layers, a few at a time; the first error ends the others."""
        slots = asyncio.Semaphore(PARALLEL_LAYERS)
        unpacked_bytes = 0

        async def one(layer: LayerSpec) -> LayerInfo:
            nonlocal unpacked_bytes
            async with slots:
                info = await self.layer(layer, fetcher, progress)
            unpacked_bytes += info.unpacked_bytes
            if unpacked_bytes > self._limits.unpacked_image_bytes:
                raise exceeded("unpacked_image_bytes", self._limits.unpacked_image_bytes, "an image")
            return info

        unique = {layer.diff_id: layer for layer in image.layers}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {diff_id: group.create_task(one(layer)) for diff_id, layer in unique.items()}
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors.exceptions[0].__cause__
        return [tasks[layer.diff_id].result() for layer in image.layers]

    async def layer(self, layer: LayerSpec, fetcher: LayerFetcher, progress: Progress) -> LayerInfo:
        """One layer, unpacked and published; at once if the store has it."""
        found = await asyncio.to_thread(self.layer_info, layer.diff_id)
        if found is not None:
            return found
        return await self._flights.run(
            ("layer", layer.diff_id), lambda report: self._unpack(layer, fetcher, report), progress
        )

    def layer_info(self, diff_id: str) -> LayerInfo | None:
        """What is known of a published layer; None if the store does not have it. Blocking."""
        try:
            return msgspec.json.decode(self._paths.layer_info(diff_id).read_bytes(), type=LayerInfo)
        except FileNotFoundError:
            return None

    async def _unpack(self, layer: LayerSpec, fetcher: LayerFetcher, progress: Progress) -> LayerInfo:
        found = await asyncio.to_thread(self.layer_info, layer.diff_id)
        if found is not None:
            return found
        stream = await fetcher.open(layer, progress)
        loop = asyncio.get_running_loop()
        total = max(layer.size_bytes, 0)

        def tell(done: int) -> None:
            event = ProgressEvent(
                phase="unpacking", subject=layer.diff_id, done_bytes=done, total_bytes=total
            )
            loop.call_soon_threadsafe(progress, event)

        def work(stop: threading.Event) -> LayerInfo:
            def advance(done: int) -> None:
                if stop.is_set():
                    raise _Stopped
                tell(done)

            with stream:
                return self._publish(layer, stream, advance)

        try:
            info = await in_thread(work)
        except ImageInvalid:
            await fetcher.done(layer)  # its digest was right, so fetching it again would bring the same
            raise
        await fetcher.done(layer)
        return info

    def _publish(self, layer: LayerSpec, stream: BinaryIO, advance: _Advance) -> LayerInfo:
        """Unpacks into tmp/, makes it durable, and renames it into place."""
        draft = self._paths.scratch("layer")
        root = draft / "fs"
        try:
            with space_errors(f"unpacking layer {layer.diff_id}"):
                root.mkdir(parents=True)
                root.chmod(0o755)
                info = unpack_layer(stream, root, layer, limits=self._limits, advance=advance)
                (draft / "layer.json").write_bytes(msgspec.json.encode(info))
                sync_file_system(draft)
                draft.rename(self._paths.layer(layer.diff_id))
                sync_path(self._paths.layers)
        except BaseException:
            remove_tree(draft)
            raise
        self._link(layer.diff_id)
        return info

    def _link(self, diff_id: str) -> None:
        """The short name; a leftover of a layer that was removed is replaced."""
        link = self._paths.link(diff_id)
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..") / self._paths.layer_root(diff_id).relative_to(self._paths.root))

    def _write(self, digest: str, data: bytes) -> None:
        path = self._paths.blob(digest)
        if not path.exists():
            with space_errors("writing an image's documents"):
                write_atomically(path, data, scratch=self._paths.tmp)

    def _check_space(self, image: ResolvedImage) -> None:
        """Refuses an image that will not fit before the first byte is fetched."""
        missing = [
            layer.size_bytes
            for layer in image.layers
            if layer.size_bytes > 0 and not self._paths.layer(layer.diff_id).exists()
        ]
        if missing:
            # Compressed and unpacked exist side by side until a layer is published.
            require_space(self._paths.root, sum(missing) * (1 + EXPECTED_GROWTH), "the image")


class _Stopped(BaseException):
    """Nobody waits for this layer any more."""


class _Advance(Protocol):
    def __call__(self, done: int, /) -> None: ...
