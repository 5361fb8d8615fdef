"""Pulls images from registries (OCI distribution-spec; Docker Registry HTTP API V2)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import BinaryIO

from midge.errors import ImageInvalid, RegistryUnavailable
from midge.images.download import download
from midge.images.flight import Flights
from midge.images.http import RegistryHttp
from midge.images.layers import LayerSpec
from midge.images.limits import ImageLimits
from midge.images.media import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    Manifest,
    Platform,
    choose,
    decode_manifest,
    sha256,
)
from midge.images.paths import StorePaths
from midge.images.progress import Progress
from midge.images.reference import ImageRef, is_digest
from midge.images.source import ResolvedImage, resolve_config

# An index may point to another index; more than this is a trick.
_INDEX_DEPTH = 3
# Downloads of one layer that others with the same layer may delete under our hands.
_OPEN_TRIES = 3
_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))


class RegistryClient:
    """Turns references into resolved images. Holds connections: `aclose` it."""

    def __init__(self, http: RegistryHttp, platform: Platform, limits: ImageLimits) -> None:
        self._http = http
        self._platform = platform
        self._limits = limits

    async def resolve(self, ref: ImageRef) -> ResolvedImage:
        """Asks the registry what a reference is: its manifest for our platform and its configuration.

        Raises:
            ImageNotFound, RegistryUnavailable, ImageInvalid.
        """
        version, index_digest = ref.version, ""
        for _ in range(_INDEX_DEPTH):
            data, media_type = await self._manifest(ref, version)
            digest = sha256(data)
            document = decode_manifest(data, media_type, self._limits)
            if isinstance(document, Manifest):
                break
            index_digest = index_digest or digest
            version = choose(document, self._platform).digest
        else:
            raise ImageInvalid(f"{ref}: image indexes are nested deeper than {_INDEX_DEPTH}")
        config = await self._small_blob(ref, document.config.digest)
        decoded, layers = resolve_config(config, document.layers, self._platform, self._limits)
        return ResolvedImage(
            digest=digest,
            manifest=data,
            config_digest=document.config.digest,
            config=config,
            document=decoded,
            layers=layers,
            parts=ref,
            refs=[ref],
            index_digest=index_digest,
        )

    async def _manifest(self, ref: ImageRef, version: str) -> tuple[bytes, str]:
        data, headers = await self._http.read(
            ref.registry,
            ref.repository,
            f"manifests/{version}",
            {"Accept": _ACCEPT},
            self._limits.manifest_bytes,
        )
        promised = version if is_digest(version) else headers.get("docker-content-digest", "")
        if is_digest(promised) and sha256(data) != promised:
            raise ImageInvalid(f"{ref}: the manifest does not match its digest {promised}")
        return data, headers.get("content-type", "")

    async def _small_blob(self, ref: ImageRef, digest: str) -> bytes:
        data, _ = await self._http.read(
            ref.registry, ref.repository, f"blobs/{digest}", {}, self._limits.config_bytes
        )
        if sha256(data) != digest:
            raise ImageInvalid(f"{ref}: the image configuration does not match its digest {digest}")
        return data


class RegistryFetcher:
    """Layers of one image out of its registry, downloaded to the store's blobs first."""

    def __init__(self, http: RegistryHttp, ref: ImageRef, paths: StorePaths, flights: Flights) -> None:
        self._http = http
        self._ref = ref
        self._paths = paths
        self._flights = flights

    async def open(self, layer: LayerSpec, progress: Progress) -> BinaryIO:
        for _ in range(_OPEN_TRIES):
            path = await self._flights.run(
                ("blob", layer.digest),
                lambda report: download(self._http, self._ref, layer, self._paths, report),
                progress,
            )
            try:
                return await asyncio.to_thread(_open, path)
            except FileNotFoundError:
                continue  # another image with the same layer was done with it in between
        raise RegistryUnavailable(f"{self._ref}: layer {layer.digest} vanished again and again")

    async def done(self, layer: LayerSpec) -> None:
        """The unpacked layer is all anybody needs: half the disk is worth more than a second download."""
        await asyncio.to_thread(self._paths.blob(layer.digest).unlink, missing_ok=True)


def _open(path: Path) -> BinaryIO:
    return path.open("rb", buffering=0)
