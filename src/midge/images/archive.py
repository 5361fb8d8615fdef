"""Images from files: an OCI layout directory, or a `docker save` archive in its older or newer form."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from midge.errors import ImageInvalid, InvalidInput
from midge.images.archive_files import Files, no_image_archive, open_files
from midge.images.layers import LayerSpec
from midge.images.limits import CHUNK_BYTES, ImageLimits, check
from midge.images.media import (
    ConfigDocument,
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose,
    decode,
    decode_manifest,
    sha256,
)
from midge.images.progress import Progress
from midge.images.reference import ImageRef, parse
from midge.images.source import ResolvedImage, resolve_config

# Indexes within indexes: an OCI layout may point to an index of platforms, nothing needs more.
_INDEX_DEPTH = 3
# Images one archive may hold.
_IMAGES_MAX = 256
_REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_UNNAMED = re.compile(r"[^a-z0-9]+")


class FileFetcher:
    """Layers out of a layout or archive. Where they are is known from resolving."""

    def __init__(self, files: Files, places: dict[str, str]) -> None:
        self._files = files
        self._places = places

    async def open(self, layer: LayerSpec, progress: Progress) -> BinaryIO:
        return self._files.open(self._places[layer.diff_id])

    async def done(self, layer: LayerSpec) -> None:
        """Nothing to tidy up: the file belongs to somebody else."""


class Opened(msgspec.Struct, frozen=True):
    """An archive or layout, read: its images and where to get their layers."""

    images: list[ResolvedImage]
    fetcher: FileFetcher


def open_path(
    path: Path, *, scratch: Path, platform: Platform, limits: ImageLimits, tag: str | None = None
) -> Opened:
    """Reads what images a file or directory has. Blocking.

    Args:
        scratch: where a compressed archive may be decompressed to; the caller removes it.
        tag: the name to give the image, instead of the names it brings.
    Raises:
        ImageInvalid: it is not an image, or damaged.
        InvalidInput: `tag` was given and there are several images.
    """
    files = open_files(path, scratch, limits)
    places: dict[str, str] = {}
    stem = _UNNAMED.sub("-", path.name.partition(".")[0].lower()).strip("-") or "image"
    if "manifest.json" in files and "index.json" not in files:
        images = _docker_images(files, platform, limits, places)
    elif "index.json" in files:
        images = _layout_images(files, platform, limits, places, stem)
    else:
        raise no_image_archive()
    if tag is not None:
        if len(images) != 1:
            raise InvalidInput(f"it has {len(images)} images, so one tag cannot name them")
        images = [_named(images[0], [parse(tag)])]
    return Opened(images, FileFetcher(files, places))


def _read(files: Files, name: str, limit: str, limits: ImageLimits) -> bytes:
    with files.open(name) as file:
        most: int = getattr(limits, limit)
        data = b"".join(_upto(file, most + 1))
    check(limits, limit, len(data), name)
    return data


def _upto(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (data := file.read(min(size, CHUNK_BYTES))):
        size -= len(data)
        yield data


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _read_blob(files: Files, descriptor: Descriptor, limit: str, limits: ImageLimits) -> bytes:
    data = _read(files, _blob_name(descriptor.digest), limit, limits)
    if sha256(data) != descriptor.digest:
        raise ImageInvalid(f"the content of {descriptor.digest} does not match its digest")
    return data


def _layout_images(
    files: Files, platform: Platform, limits: ImageLimits, places: dict[str, str], stem: str
) -> list[ResolvedImage]:
    data = _read(files, "index.json", "manifest_bytes", limits)
    index = decode_manifest(data, "application/vnd.oci.image.index.v1+json", limits)
    if not isinstance(index, Index):
        raise ImageInvalid("index.json is not an image index")
    found: dict[str, ResolvedImage] = {}
    usable = [entry for entry in index.manifests if _usable(entry, platform)]
    for entry in usable or index.manifests[:1]:
        image = _layout_image(files, entry, platform, limits, places)
        refs = _names(entry, stem)
        known = found.get(image.digest)
        found[image.digest] = _named(image, [*(known.refs if known else []), *refs])
    return list(found.values())


def _usable(entry: Descriptor, platform: Platform) -> bool:
    try:
        choose(Index(manifests=[entry]), platform)
    except ImageInvalid:
        return False
    return True


def _layout_image(
    files: Files, entry: Descriptor, platform: Platform, limits: ImageLimits, places: dict[str, str]
) -> ResolvedImage:
    index_digest = ""
    for _ in range(_INDEX_DEPTH):
        data = _read_blob(files, entry, "manifest_bytes", limits)
        document = decode_manifest(data, entry.media_type, limits)
        if isinstance(document, Manifest):
            config = _read_blob(files, document.config, "config_bytes", limits)
            decoded, layers = resolve_config(config, document.layers, platform, limits)
            places.update({layer.diff_id: _blob_name(layer.digest) for layer in layers})
            return ResolvedImage(
                digest=entry.digest,
                manifest=data,
                config_digest=document.config.digest,
                config=config,
                document=decoded,
                layers=layers,
                parts=_nameless(),
                index_digest=index_digest,
            )
        index_digest = index_digest or entry.digest
        entry = choose(document, platform)
    raise ImageInvalid(f"image indexes are nested deeper than {_INDEX_DEPTH}")


def _names(entry: Descriptor, stem: str) -> list[ImageRef]:
    """The references a layout gives an image. A bare tag gets the layout's own name as its repository."""
    annotations = entry.annotations or {}
    for key in (_CONTAINERD_NAME, _REF_NAME):
        name = annotations.get(key)
        if name:
            bare = key == _REF_NAME and "/" not in name and ":" not in name
            try:
                return [parse(f"{stem}:{name}" if bare else name)]
            except InvalidInput:
                continue
    return []


class _DockerEntry(msgspec.Struct, rename="pascal"):
    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


def _docker_images(
    files: Files, platform: Platform, limits: ImageLimits, places: dict[str, str]
) -> list[ResolvedImage]:
    """The older form of `docker save`: there is no manifest, so one is made up, the same for the same image."""
    data = _read(files, "manifest.json", "manifest_bytes", limits)
    entries = decode(data, list[_DockerEntry], "manifest.json of the archive")
    if len(entries) > _IMAGES_MAX:
        raise ImageInvalid(f"the archive has more than {_IMAGES_MAX} images")
    images = []
    for entry in entries:
        check(limits, "layers", len(entry.layers), "the number of layers")
        config = _read(files, posixpath.normpath(entry.config), "config_bytes", limits)
        diff_ids = decode(config, ConfigDocument, "the image configuration").rootfs.diff_ids
        layers = [Descriptor(digest=diff_id, size=0) for diff_id in diff_ids]
        if len(entry.layers) != len(layers):
            raise ImageInvalid("manifest.json and the image configuration disagree about the layers")
        document, _ = resolve_config(config, layers, platform, limits)
        for diff_id, name in zip(diff_ids, entry.layers, strict=True):
            places[diff_id] = posixpath.normpath(name)
        manifest = _made_up_manifest(config, diff_ids)
        image = ResolvedImage(
            digest=sha256(manifest),
            manifest=manifest,
            config_digest=sha256(config),
            config=config,
            document=document,
            layers=[LayerSpec(diff_id=diff_id) for diff_id in diff_ids],
            parts=_nameless(),
        )
        images.append(_named(image, [parse(name) for name in entry.repo_tags or []]))
    return images


def _made_up_manifest(config: bytes, diff_ids: list[str]) -> bytes:
    oci = "application/vnd.oci.image"
    document = {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": {"mediaType": f"{oci}.config.v1+json", "digest": sha256(config), "size": len(config)},
        "layers": [{"mediaType": f"{oci}.layer.v1.tar", "digest": diff_id} for diff_id in diff_ids],
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _nameless() -> ImageRef:
    """What an image is called that brings no name."""
    return ImageRef(registry="localhost", repository="imported")


def _named(image: ResolvedImage, refs: list[ImageRef]) -> ResolvedImage:
    return msgspec.structs.replace(image, refs=refs, parts=refs[0] if refs else image.parts)
