"""What an image is made of before it is in the store, wherever it comes from."""

from __future__ import annotations

from typing import Protocol

import msgspec

from midge.errors import ImageInvalid
from midge.images.layers import LayerSpec
from midge.images.limits import ImageLimits, check
from midge.images.media import ConfigDocument, Descriptor, Platform, decode, runs_on
from midge.images.reference import ImageRef


class ResolvedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image for one platform: its documents, checked, and its layers, not yet fetched.

    Attributes:
        index_digest: of the index that led here, empty if none did.
        refs: names it is to have in the store.
        parts: reference whose registry and repository the image carries.
    """

    digest: str
    manifest: bytes
    config_digest: str
    config: bytes
    document: ConfigDocument
    layers: list[LayerSpec]
    parts: ImageRef
    refs: list[ImageRef] = []
    index_digest: str = ""


class Blob(Protocol):
    """The bytes of a layer, read in a thread; closed after use."""

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


def resolve_config(
    config: bytes, layers: list[Descriptor], platform: Platform, limits: ImageLimits
) -> tuple[ConfigDocument, list[LayerSpec]]:
    """Decodes a configuration and pairs the manifest's layers with its diff_ids.

    Raises:
        ImageInvalid: damaged, for another platform, or the two do not fit together.
    """
    check(limits, "config_bytes", len(config), "the image configuration")
    document = decode(config, ConfigDocument, "the image configuration")
    if not runs_on(document, platform):
        raise ImageInvalid(
            f"the image is for {document.os or 'linux'}/{document.architecture}, this host runs {platform}"
        )
    diff_ids = document.rootfs.diff_ids
    if len(diff_ids) != len(layers):
        raise ImageInvalid(
            f"the manifest has {len(layers)} layers where the configuration has {len(diff_ids)}"
        )
    specs = [
        LayerSpec(diff_id=diff_id, digest=layer.digest, size_bytes=layer.size)
        for diff_id, layer in zip(diff_ids, layers, strict=True)
    ]
    return document, specs
