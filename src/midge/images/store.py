"""The image store: everything Midge does with images goes through here.

    ensure / pull ──► registry ──┐
                                 ├─► Installer ─► layers/, blobs/, images/, tags.json
    import_path ────► archive ───┘
    erofs ──────────► merged layers ─► rootfs/          (for virtual machines)
    layer_dirs ─────► layers/ or merged/                (for containers)
    remove, prune ──► collector

Safe for concurrent use in one process; a lock file keeps other processes out. Everything is done once however
many ask at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType

from midge.errors import Conflict, ImageNotFound
from midge.images import archive
from midge.images.catalog import Catalog, name_of
from midge.images.collector import Collected, collect, delete
from midge.images.flight import Flights, in_thread
from midge.images.fs import remove_tree
from midge.images.http import RegistryConfig, RegistryHttp
from midge.images.installer import Installer
from midge.images.limits import DEFAULT_LIMITS, ImageLimits
from midge.images.lock import StoreLock
from midge.images.media import Platform, host_platform
from midge.images.model import Image, ImageSummary, PruneReport, RemoveReport
from midge.images.paths import StorePaths
from midge.images.pins import Pins
from midge.images.progress import Progress, ProgressEvent, silent
from midge.images.reference import ImageRef, is_digest, parse
from midge.images.registry import RegistryClient, RegistryFetcher
from midge.images.views import Views

__all__ = ["ImageStore", "RegistryConfig"]

# Inside the class, `list` is a method.
_Images = list[Image]
_Summaries = list[ImageSummary]
_Paths = list[Path]
_Names = list[str]


class ImageStore:
    """Images of one host, kept below `root`. Use it with ``async with``, or `open` and `aclose` it."""

    def __init__(
        self,
        root: Path,
        *,
        limits: ImageLimits = DEFAULT_LIMITS,
        registry: RegistryConfig | None = None,
        http: RegistryHttp | None = None,
        platform: Platform | None = None,
        compression: str | None = None,
    ) -> None:
        """No I/O happens here.

        Args:
            http: what to reach registries with, instead of one made from `registry`.
            platform: which images to choose; this host's if None.
            compression: of rootfs images, ``lz4`` or ``lz4hc``; None for plain files.
        """
        self._paths = StorePaths(root)
        self._limits = limits
        self._platform = platform or host_platform()
        self._http = http or RegistryHttp(registry or RegistryConfig())
        self._client = RegistryClient(self._http, self._platform, limits)
        self._catalog = Catalog(self._paths)
        self._flights = Flights()
        self._pins = Pins()
        self._lock = StoreLock(self._paths.lock)
        self._installer = Installer(self._paths, self._catalog, self._flights, self._pins, limits)
        self._views = Views(self._paths, self._flights, self._installer, compression=compression)

    async def __aenter__(self) -> ImageStore:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Takes the store's lock, removes what a crashed process left half-made, reads the catalog.

        Raises:
            Conflict: another process has the store open.
        """
        await asyncio.to_thread(self._paths.make)
        await self._lock.acquire()
        try:
            await asyncio.to_thread(self._tidy)
        except BaseException:
            self._lock.release()
            raise

    def _tidy(self) -> None:
        for leftover in self._paths.tmp.iterdir():
            remove_tree(leftover)
        self._catalog.load()

    async def aclose(self) -> None:
        """Ends work under way, waits for it, and releases the lock."""
        await self._flights.aclose()
        await self._http.aclose()
        self._lock.release()

    async def ensure(self, reference: str, *, progress: Progress | None = None) -> Image:
        """The image a reference means: the local one if there is one, else the registry's.

        Args:
            reference: as people type it, or a bare manifest digest of a local image.
        Raises:
            InvalidInput, ImageNotFound, ImageInvalid, RegistryUnavailable, OutOfSpace.
        """
        if is_digest(reference):
            return self.get(reference)
        ref = parse(reference)
        image = self._catalog.find(ref)
        if image is not None and await asyncio.to_thread(self._is_complete, image):
            return image
        return await self._pull(ref, progress)

    async def pull(self, reference: str, *, progress: Progress | None = None) -> Image:
        """As `ensure`, but always asks the registry what the reference means now."""
        return await self._pull(parse(reference), progress)

    async def resolve(self, reference: str) -> ImageRef:
        """The reference with the digest it means now, local images first; nothing is fetched but a manifest.

        Raises:
            InvalidInput, ImageNotFound, ImageInvalid, RegistryUnavailable.
        """
        local = self.find(reference)
        if local is not None:
            return ImageRef(
                registry=local.registry, repository=local.repository, tag=local.tag, digest=local.digest
            )
        ref = parse(reference)
        resolved = await self._client.resolve(ref)
        return ImageRef(registry=ref.registry, repository=ref.repository, tag=ref.tag, digest=resolved.digest)

    async def _pull(self, ref: ImageRef, progress: Progress | None) -> Image:
        async def work(report: Progress) -> Image:
            report(ProgressEvent(phase="resolving", subject=str(ref)))
            resolved = await self._client.resolve(ref)
            fetcher = RegistryFetcher(self._http, ref, self._paths, self._flights)
            image = await self._installer.install(resolved, fetcher, report)
            report(ProgressEvent(phase="done", subject=str(ref)))
            return image

        return await self._flights.run(("pull", str(ref)), work, progress)

    def _is_complete(self, image: Image) -> bool:
        return all(self._paths.layer(diff_id).exists() for diff_id in image.diff_ids)

    async def import_path(
        self, path: Path, *, tag: str | None = None, progress: Progress | None = None
    ) -> _Images:
        """Imports all images of an OCI layout directory or a `docker save` archive (.tar, .tar.gz, .tar.zst).

        Args:
            tag: the name for the image, instead of those it brings.
        Raises:
            InvalidInput, ImageInvalid, OutOfSpace.
        """
        report = progress or silent
        scratch = self._paths.scratch("archive")
        try:
            opened = await in_thread(
                lambda _: archive.open_path(
                    path, scratch=scratch, platform=self._platform, limits=self._limits, tag=tag
                )
            )
            return [await self._installer.install(image, opened.fetcher, report) for image in opened.images]
        finally:
            await asyncio.to_thread(remove_tree, scratch)

    def get(self, digest: str) -> Image:
        """The image with this manifest digest.

        Raises:
            ImageNotFound: the store does not have it.
        """
        return self._catalog.get(digest)

    def find(self, reference: str) -> Image | None:
        """The local image a reference or digest means, without asking anybody."""
        if is_digest(reference):
            return self._catalog.get(reference) if reference in self._catalog else None
        return self._catalog.find(parse(reference))

    def list(self) -> _Summaries:
        """All images, those with names first and in their order."""
        found = [self._catalog.summary(image) for image in self._catalog]
        return sorted(found, key=lambda one: (not one.references, one.references, one.digest))

    async def erofs(self, digest: str, *, progress: Progress | None = None) -> Path:
        """The read-only disk of an image for virtual machines; built at the first call.

        Raises:
            ImageNotFound, OutOfSpace, NotSupported (mkfs.erofs is missing), Unavailable.
        """
        async with self._pins.hold(self._parts(digest)):
            return await self._views.erofs(self.get(digest), progress)

    async def layer_dirs(self, digest: str) -> _Paths:
        """Directories for overlayfs's ``lowerdir``, topmost first; always at least one.

        Where overlayfs cannot express the image, they are one directory with everything merged.
        """
        async with self._pins.hold(self._parts(digest)):
            return await self._views.layer_dirs(self.get(digest))

    def _parts(self, digest: str) -> _Names:
        return [digest, *self.get(digest).diff_ids]

    async def remove(self, reference_or_digest: str, *, in_use: Collection[str]) -> RemoveReport:
        """Removes a name, and the image with its last name; by digest, the image with all its names.

        Args:
            in_use: manifest digests of images machines need.
        Raises:
            ImageNotFound: no such name or image. Conflict: a machine needs the image.
        """
        by_digest = is_digest(reference_or_digest)
        image = self.find(reference_or_digest)
        if image is None:
            raise ImageNotFound(f"no image {reference_or_digest} on this host")
        names = self._catalog.names(image.digest)
        if not by_digest:
            asked = name_of(parse(reference_or_digest))
            tags = self._catalog.names(image.digest, tags_only=True)
            if set(tags) - {asked} and "@" not in asked:
                await self._catalog.forget_names([asked])
                return RemoveReport(untagged=[asked], deleted=[], freed_bytes=0)
        freed, _, deleted = await self._collect(
            lambda found: found.digest == image.digest and found.digest not in in_use
        )
        if not deleted:
            raise Conflict(
                f"image {reference_or_digest} is in use by a machine", hint="destroy the machine first"
            )
        return RemoveReport(untagged=names, deleted=deleted, freed_bytes=freed)

    async def prune(self, *, in_use: Collection[str], keep_tagged: bool = True) -> PruneReport:
        """Removes every image no machine needs (and that has no name, with `keep_tagged`) and all leftovers."""

        def is_garbage(image: Image) -> bool:
            tagged = keep_tagged and self._catalog.names(image.digest, tags_only=True)
            return image.digest not in in_use and not tagged

        freed, collected, deleted = await self._collect(is_garbage)
        return PruneReport(
            deleted=deleted,
            layers=len(collected.layers),
            blobs=len(collected.blobs),
            rootfs=len(collected.rootfs),
            freed_bytes=freed,
        )

    async def _collect(self, is_garbage: Callable[[Image], bool]) -> tuple[int, Collected, _Names]:
        """Forgets unwanted images nobody is working with, and removes what no image needs then."""
        async with self._pins.gate:
            pinned = self._pins.snapshot()
            deleted = [
                image.digest for image in self._catalog if image.digest not in pinned and is_garbage(image)
            ]
            await self._catalog.forget(deleted)
            keep = tuple(self._catalog)
            collected = await in_thread(lambda _: collect(self._paths, keep, pinned))
        return await in_thread(lambda _: delete(collected)), collected, deleted
