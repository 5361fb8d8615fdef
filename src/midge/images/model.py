"""What the rest of Midge knows about an image."""

from __future__ import annotations

import msgspec


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How an image wants to be run. Empty means: not said (OCI image-spec, config.md)."""

    entrypoint: list[str] = []
    cmd: list[str] = []
    env: list[str] = []
    working_dir: str = ""
    user: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    exposed_ports: list[str] = []


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image for one platform, complete in the local store.

    Attributes:
        digest: of the manifest for this platform; the image's identity.
        registry: host of the registry it was asked from, or would be.
        tag: empty when it was asked for by digest alone.
        index_digest: of the index that led to it, empty if none did.
        diff_ids: digests of the uncompressed layers, bottom first.
        size_bytes: all layers unpacked.
        created: RFC 3339 as the image says, may be empty.
    """

    digest: str
    config_digest: str
    registry: str
    repository: str
    tag: str = ""
    index_digest: str = ""
    config: ImageConfig = ImageConfig()
    diff_ids: list[str] = []
    size_bytes: int = 0
    created: str = ""
    architecture: str = ""
    variant: str = ""

    @property
    def reference(self) -> str:
        """Canonical reference, by tag where there is one."""
        version = f":{self.tag}" if self.tag else f"@{self.digest}"
        return f"{self.registry}/{self.repository}{version}"


class ImageSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an image list. `references` are in the form people type."""

    digest: str
    references: list[str]
    size_bytes: int
    created: str
    architecture: str


class LayerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What unpacking one layer found.

    Attributes:
        unpacked_bytes: length of the tar plus the holes of its sparse files.
        entries: members of the tar.
        whiteouts: files and directories it hides in lower layers; opaque directories count as well.
        root_opaque: it hides everything below (overlayfs cannot express that on a layer's root).
        implicit: directories the tar uses without listing; their mode and owner are lower layers' business.
        dropped_devices: device nodes left out, see `midge.images.unpack`.
    """

    diff_id: str
    unpacked_bytes: int
    entries: int
    whiteouts: int = 0
    root_opaque: bool = False
    implicit: list[bytes] = []
    dropped_devices: int = 0


class RemoveReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `remove` did: references that are gone, images that are gone, room that is free again."""

    untagged: list[str]
    deleted: list[str]
    freed_bytes: int


class PruneReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a garbage collection removed."""

    deleted: list[str]
    layers: int
    blobs: int
    rootfs: int
    freed_bytes: int
