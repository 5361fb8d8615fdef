"""Which images the store has and by which names: small files on disk, all of it in memory.

One JSON file per image and one for all names, each replaced atomically. The files are written before memory
changes, so what `get` and `find` answer has survived a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec

from midge.errors import ImageNotFound
from midge.images.fs import space_errors, sync_path, write_atomically
from midge.images.model import Image, ImageSummary
from midge.images.paths import StorePaths
from midge.images.reference import ImageRef, parse


class Catalog:
    """Images and names. Reads are plain calls; writes are awaited one after the other."""

    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths
        self._images: dict[str, Image] = {}
        self._names: dict[str, str] = {}
        self._lock = asyncio.Lock()

    def load(self) -> None:
        """Reads the files; blocking. A damaged image file is removed: its image is fetched again."""
        self._images = {}
        for path in self._paths.images.glob("*.json"):
            try:
                image = msgspec.json.decode(path.read_bytes(), type=Image)
            except msgspec.MsgspecError:
                path.unlink()
                continue
            self._images[image.digest] = image
        names: dict[str, str] = {}
        if self._paths.tags.exists():
            try:
                names = msgspec.json.decode(self._paths.tags.read_bytes(), type=dict[str, str])
            except msgspec.MsgspecError:
                self._paths.tags.unlink()
        self._names = {name: digest for name, digest in names.items() if digest in self._images}

    def __iter__(self) -> Iterator[Image]:
        return iter(list(self._images.values()))

    def __contains__(self, digest: object) -> bool:
        return digest in self._images

    def get(self, digest: str) -> Image:
        """The image with this manifest digest.

        Raises:
            ImageNotFound: the store does not have it.
        """
        image = self._images.get(digest)
        if image is None:
            raise ImageNotFound(f"no image {digest} on this host", hint="pull or import it first")
        return image

    def find(self, ref: ImageRef) -> Image | None:
        """The image a reference means here, with the reference's own registry, repository and tag."""
        digest = ref.digest if ref.digest in self._images else self._names.get(name_of(ref), "")
        image = self._images.get(digest)
        return None if image is None else as_asked(image, ref)

    def names(self, digest: str, *, tags_only: bool = False) -> list[str]:
        """Canonical references that mean this image."""
        return sorted(
            name for name, owner in self._names.items() if owner == digest and not (tags_only and "@" in name)
        )

    def summary(self, image: Image) -> ImageSummary:
        return ImageSummary(
            digest=image.digest,
            references=[parse(name).familiar for name in self.names(image.digest, tags_only=True)],
            size_bytes=image.size_bytes,
            created=image.created,
            architecture=image.architecture,
        )

    async def record(self, image: Image, refs: list[ImageRef]) -> None:
        """Adds an image and makes these references mean it."""
        async with self._lock:
            names = self._names | {name_of(ref): image.digest for ref in refs}
            if self._images.get(image.digest) != image:
                data = msgspec.json.encode(image)
                await asyncio.to_thread(self._write, self._paths.image(image.digest), data)
            self._images[image.digest] = image
            await self._write_names(names)

    async def forget_names(self, names: list[str]) -> None:
        """Removes references; the images stay."""
        async with self._lock:
            await self._write_names({name: self._names[name] for name in self._names if name not in names})

    async def forget(self, digests: list[str]) -> None:
        """Removes images and every reference to them. Their files are the garbage collector's business."""
        async with self._lock:
            gone = set(digests)
            await self._write_names({name: owner for name, owner in self._names.items() if owner not in gone})
            await asyncio.to_thread(self._unlink, [self._paths.image(digest) for digest in digests])
            for digest in digests:
                self._images.pop(digest, None)

    async def _write_names(self, names: dict[str, str]) -> None:
        if names != self._names:
            data = msgspec.json.format(msgspec.json.encode(dict(sorted(names.items()))))
            await asyncio.to_thread(self._write, self._paths.tags, data)
            self._names = names

    def _write(self, path: Path, data: bytes) -> None:
        with space_errors("writing the image catalog"):
            write_atomically(path, data, scratch=self._paths.tmp)

    def _unlink(self, paths: list[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
        sync_path(self._paths.images)


def name_of(ref: ImageRef) -> str:
    """The key of a reference: the digest decides where there is one."""
    return str(ref) if not ref.digest else f"{ref.registry}/{ref.repository}@{ref.digest}"


def as_asked(image: Image, ref: ImageRef) -> Image:
    """The image with the parts of the reference somebody asked by."""
    return msgspec.structs.replace(image, registry=ref.registry, repository=ref.repository, tag=ref.tag)
