"""Where everything is in the image store.

    lock                        held by the one process that has the store open
    tmp/                        half-made things; emptied when the store is opened
    blobs/sha256/<hex>          manifests, configurations; compressed layers until they are unpacked
    blobs/sha256/<hex>.partial  a download to be resumed
    layers/<hex>/fs             an unpacked layer, by diff_id, in overlayfs form
    layers/<hex>/layer.json     what unpacking it found
    l/<16 hex>                  link to layers/<hex>/fs: short names for mount options
    merged/<hex>/fs             layers merged into one directory, by manifest digest
    rootfs/<hex>-<format>.erofs read-only disk for virtual machines, by manifest digest
    images/<hex>.json           one file per image, by manifest digest
    tags.json                   canonical reference to manifest digest

Only complete things have these names: they are made in tmp/ and renamed.
"""

from __future__ import annotations

import os
from pathlib import Path

from midge.images.rootfs import FORMAT_VERSION


def hex_of(digest: str) -> str:
    """The hex digits of a sha256 digest."""
    return digest.removeprefix("sha256:")


class StorePaths:
    """Names of files and directories below the store's root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "lock"
        self.tmp = root / "tmp"
        self.blobs = root / "blobs" / "sha256"
        self.layers = root / "layers"
        self.links = root / "l"
        self.merged = root / "merged"
        self.rootfs = root / "rootfs"
        self.images = root / "images"
        self.tags = root / "tags.json"

    def make(self) -> None:
        """Makes missing directories; only root may look in, as images contain set-user-ID programs."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)
        for directory in (
            self.tmp,
            self.blobs,
            self.layers,
            self.links,
            self.merged,
            self.rootfs,
            self.images,
        ):
            directory.mkdir(parents=True, exist_ok=True)

    def blob(self, digest: str) -> Path:
        return self.blobs / hex_of(digest)

    def partial(self, digest: str) -> Path:
        return self.blobs / f"{hex_of(digest)}.partial"

    def layer(self, diff_id: str) -> Path:
        return self.layers / hex_of(diff_id)

    def layer_root(self, diff_id: str) -> Path:
        return self.layer(diff_id) / "fs"

    def layer_info(self, diff_id: str) -> Path:
        return self.layer(diff_id) / "layer.json"

    def link(self, diff_id: str) -> Path:
        return self.links / hex_of(diff_id)[:16]

    def merged_root(self, digest: str) -> Path:
        return self.merged / hex_of(digest) / "fs"

    def erofs(self, digest: str) -> Path:
        return self.rootfs / f"{hex_of(digest)}-{FORMAT_VERSION}.erofs"

    def image(self, digest: str) -> Path:
        return self.images / f"{hex_of(digest)}.json"

    def scratch(self, what: str) -> Path:
        """A fresh name in tmp/."""
        return self.tmp / f"{what}-{os.urandom(8).hex()}"
