"""Finds and removes what no image needs any more.

Whatever goes is first renamed into tmp/ and only then deleted: a crash in between leaves either a complete
layer or garbage that the next start removes, never a layer with half its files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from midge.images.fs import disk_usage, remove_tree
from midge.images.model import Image
from midge.images.paths import StorePaths, hex_of


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What was moved out of the way."""

    layers: list[Path]
    blobs: list[Path]
    rootfs: list[Path]


def collect(paths: StorePaths, keep: Iterable[Image], pinned: Collection[str]) -> Collected:
    """Moves everything no kept image and no pin needs into tmp/. Blocking, but only renames."""
    images = list(keep)
    pins = {hex_of(digest) for digest in pinned}
    layers = pins | {hex_of(diff_id) for image in images for diff_id in image.diff_ids}
    digests = pins | {hex_of(image.digest) for image in images}
    documents = digests | {hex_of(image.config_digest) for image in images}
    links = {digits[:16] for digits in layers}
    for link in _entries(paths.links):
        if link.name not in links:
            link.unlink()
    return Collected(
        layers=_move(paths, (path for path in _entries(paths.layers) if path.name not in layers)),
        blobs=_move(
            paths, (path for path in _entries(paths.blobs) if path.name.partition(".")[0] not in documents)
        ),
        rootfs=_move(
            paths,
            (
                path
                for directory in (paths.rootfs, paths.merged)
                for path in _entries(directory)
                if path.name.partition("-")[0] not in digests
            ),
        ),
    )


def delete(collected: Collected) -> int:
    """Deletes what `collect` moved away and returns the bytes that are free again. Blocking."""
    freed = 0
    for path in (*collected.layers, *collected.blobs, *collected.rootfs):
        freed += disk_usage(path)
        remove_tree(path)
    return freed


def _entries(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def _move(paths: StorePaths, garbage: Iterable[Path]) -> list[Path]:
    moved = []
    for path in garbage:
        target = paths.scratch("garbage")
        path.rename(target)
        moved.append(target)
    return moved
