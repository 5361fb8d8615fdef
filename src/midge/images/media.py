"""Manifests, indexes and configurations: decoding them, and choosing the right one. Pure functions.

OCI image-spec 1.1 and Docker's image manifest version 2, schema 2, which differ in media types only.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from midge.errors import ImageInvalid
from midge.images.limits import ImageLimits, check
from midge.images.model import ImageConfig
from midge.images.reference import is_digest

_OCI: Final = "application/vnd.oci.image"
_DOCKER: Final = "application/vnd.docker"
MANIFEST_TYPES: Final = (f"{_OCI}.manifest.v1+json", f"{_DOCKER}.distribution.manifest.v2+json")
INDEX_TYPES: Final = (f"{_OCI}.index.v1+json", f"{_DOCKER}.distribution.manifest.list.v2+json")
LAYER_TYPES: Final = frozenset(
    {
        f"{_OCI}.layer.v1.tar",
        f"{_OCI}.layer.v1.tar+gzip",
        f"{_OCI}.layer.v1.tar+zstd",
        f"{_DOCKER}.image.rootfs.diff.tar",
        f"{_DOCKER}.image.rootfs.diff.tar.gzip",
        f"{_DOCKER}.image.rootfs.diff.tar.zstd",
    }
)
_CONFIG_TYPES: Final = frozenset(
    {f"{_OCI}.config.v1+json", f"{_DOCKER}.container.image.v1+json", "application/octet-stream", ""}
)
_SCHEMA_1: Final = f"{_DOCKER}.distribution.manifest.v1"
_ATTESTATION: Final = "vnd.docker.reference.type"

# The variant meant when none is written (containerd's platforms package normalises the same way).
_BASELINE: Final = {"amd64": 1, "arm64": 8, "arm": 7}
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """Points to a blob (OCI image-spec, descriptor.md)."""

    digest: str
    size: int
    media_type: str = msgspec.field(name="mediaType", default="")
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    config: Descriptor
    layers: list[Descriptor]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    manifests: list[Descriptor]


class _Kind(msgspec.Struct, kw_only=True):
    schema_version: int = msgspec.field(name="schemaVersion", default=2)
    media_type: str = msgspec.field(name="mediaType", default="")
    manifests: msgspec.Raw = msgspec.Raw()


class _Run(msgspec.Struct, kw_only=True, rename="pascal"):
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    working_dir: str | None = None
    user: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    exposed_ports: dict[str, object] | None = None


class _Rootfs(msgspec.Struct, kw_only=True):
    diff_ids: list[str]


class ConfigDocument(msgspec.Struct, kw_only=True):
    """The parts of an image configuration Midge reads (OCI image-spec, config.md)."""

    rootfs: _Rootfs
    config: _Run | None = None
    created: str | None = None
    architecture: str = ""
    os: str = ""
    variant: str = ""

    def run(self) -> ImageConfig:
        """How the image wants to be run."""
        run = self.config or _Run()
        return ImageConfig(
            entrypoint=run.entrypoint or [],
            cmd=run.cmd or [],
            env=run.env or [],
            working_dir=run.working_dir or "",
            user=run.user or "",
            labels=run.labels or {},
            stop_signal=run.stop_signal or "",
            exposed_ports=sorted(run.exposed_ports or ()),
        )


T = TypeVar("T")


def sha256(data: bytes) -> str:
    """The digest of a small document."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def host_platform() -> Platform:
    """What this host runs. The variant is the architecture's baseline: guests may run under emulation."""
    machine = platform.machine()
    return Platform(os="linux", architecture=_MACHINES.get(machine, machine))


def decode(data: bytes, kind: type[T], what: str) -> T:
    """Decodes a JSON document.

    Raises:
        ImageInvalid: it is not JSON, or lacks what it must have.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ImageInvalid(f"{what} is damaged") from error


def decode_manifest(data: bytes, media_type: str, limits: ImageLimits) -> Manifest | Index:
    """A manifest or an index, whichever it is. The document's own media type wins over the transport's.

    Raises:
        ImageInvalid: it is neither, is over a limit, or has layers Midge cannot or may not fetch.
    """
    check(limits, "manifest_bytes", len(data), "a manifest")
    kind = decode(data, _Kind, "the image manifest")
    actual = kind.media_type or media_type.partition(";")[0].strip()
    if kind.schema_version == 1 or actual.startswith(_SCHEMA_1):
        raise ImageInvalid("the image has a schema 1 manifest", hint="push it again with a current tool")
    if actual in INDEX_TYPES or (actual not in MANIFEST_TYPES and bytes(kind.manifests)):
        index = decode(data, Index, "the image index")
        check(limits, "index_entries", len(index.manifests), "an image index")
        for entry in index.manifests:
            _check_descriptor(entry)
        return index
    manifest = decode(data, Manifest, "the image manifest")
    _check_manifest(manifest, limits)
    return manifest


def _check_manifest(manifest: Manifest, limits: ImageLimits) -> None:
    check(limits, "layers", len(manifest.layers), "the number of layers")
    _check_descriptor(manifest.config)
    check(limits, "config_bytes", manifest.config.size, "the image configuration")
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise ImageInvalid(
            f"this is no container image: its configuration has type {manifest.config.media_type}"
        )
    for layer in manifest.layers:
        _check_descriptor(layer)
        check(limits, "compressed_layer_bytes", layer.size, "a layer")
        if "nondistributable" in layer.media_type or "foreign" in layer.media_type:
            raise ImageInvalid(f"layer {layer.digest} may not be distributed by registries (a foreign layer)")
        if layer.media_type not in LAYER_TYPES:
            raise ImageInvalid(f"layer {layer.digest} has the unknown type {layer.media_type or '(none)'}")


def _check_descriptor(descriptor: Descriptor) -> None:
    if not is_digest(descriptor.digest):
        raise ImageInvalid(f"{descriptor.digest[:80]!r} is not a sha256 digest")
    if descriptor.size < 0:
        raise ImageInvalid(f"{descriptor.digest} has a negative size")


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The entry of an index for a platform: the highest variant that still runs, or one without a platform.

    Raises:
        ImageInvalid: there is none; the message lists what there is.
    """
    ranked = [
        (rank, -position, entry)
        for position, entry in enumerate(index.manifests)
        if (rank := _rank(entry, wanted)) >= 0
    ]
    if not ranked:
        raise ImageInvalid(
            f"the image is not for {wanted}", hint=f"it has: {_platforms(index.manifests) or 'nothing'}"
        )
    return max(ranked, key=lambda item: item[:2])[2]


def runs_on(document: ConfigDocument, wanted: Platform) -> bool:
    """Whether the image's own configuration agrees with the platform; empty fields agree with everything."""
    return document.os in ("", wanted.os) and document.architecture in ("", wanted.architecture)


def _rank(entry: Descriptor, wanted: Platform) -> int:
    """-1: unusable; 0: it does not say; otherwise higher is better."""
    if entry.annotations and _ATTESTATION in entry.annotations:
        return -1
    if entry.media_type and entry.media_type not in (*MANIFEST_TYPES, *INDEX_TYPES):
        return -1
    have = entry.platform
    if have is None or not (have.os or have.architecture):
        return 0
    if (have.os, have.architecture) != (wanted.os, wanted.architecture):
        return -1
    level, most = _level(have), _level(wanted)
    return 1 + level if 0 <= level <= most else -1


def _level(platform_: Platform) -> int:
    """The number of a variant such as v3 or v8; -1 for one we do not know."""
    if not platform_.variant:
        return _BASELINE.get(platform_.architecture, 0)
    digits = platform_.variant.removeprefix("v")
    return int(digits) if digits.isdecimal() and len(digits) < 3 else -1


def _platforms(entries: Sequence[Descriptor]) -> str:
    names = {str(entry.platform) for entry in entries if entry.platform is not None}
    return ", ".join(sorted(names)[:12])
