"""What drivers mount: a disk image for virtual machines, lower directories for containers."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from midge.errors import ImageNotFound
from midge.images import rootfs
from midge.images.flight import Flights, in_thread
from midge.images.fs import remove_tree, require_space, space_errors, sync_file_system, sync_path
from midge.images.installer import Installer
from midge.images.limits import OVERLAY_MAX_LOWER, OVERLAY_OPTION_BYTES
from midge.images.merge import MergeLayer, merge
from midge.images.model import Image, LayerInfo
from midge.images.paths import StorePaths
from midge.images.progress import Progress, ProgressEvent


class Views:
    """Builds and finds the mountable forms of installed images."""

    def __init__(
        self, paths: StorePaths, flights: Flights, installer: Installer, *, compression: str | None
    ) -> None:
        self._paths = paths
        self._flights = flights
        self._installer = installer
        self._compression = compression

    async def erofs(self, image: Image, progress: Progress | None) -> Path:
        path = self._paths.erofs(image.digest)
        if not path.exists():
            await self._flights.run(
                ("erofs", image.digest), lambda report: self._build(image, report), progress
            )
        return path

    async def layer_dirs(self, image: Image) -> list[Path]:
        merged = self._paths.merged_root(image.digest)
        if merged.exists():
            return [merged]
        infos = await asyncio.to_thread(self._infos, image)
        dirs = self._lower_dirs(infos)
        fits = sum(len(os.fsencode(path)) + 1 for path in dirs) <= OVERLAY_OPTION_BYTES
        if (
            dirs
            and fits
            and len(dirs) <= OVERLAY_MAX_LOWER
            and not await asyncio.to_thread(self._borrows, infos)
        ):
            return dirs
        await self._flights.run(("merged", image.digest), lambda _: self._merge(image))
        return [merged]

    def _infos(self, image: Image) -> list[LayerInfo]:
        infos = []
        for diff_id in image.diff_ids:
            info = self._installer.layer_info(diff_id)
            if info is None:
                raise ImageNotFound(
                    f"layer {diff_id} of image {image.digest} is missing", hint="pull it again"
                )
            infos.append(info)
        return infos

    def _lower_dirs(self, infos: Sequence[LayerInfo]) -> list[Path]:
        """Short names, topmost first. A layer twice in an image counts where it is topmost: nothing of the
        lower one can be seen, and overlayfs refuses duplicates."""
        dirs: dict[Path, None] = {}
        for info in reversed(infos):
            dirs.setdefault(self._paths.link(info.diff_id))
            if info.root_opaque:
                break
        return list(dirs)

    def _borrows(self, infos: Sequence[LayerInfo]) -> bool:
        """Whether a layer passes through a directory it does not list and a lower layer does.

        overlayfs would show the upper one's made-up mode and owner; they must be the lower one's.
        """
        for position, info in enumerate(infos):
            own = self._paths.layer_root(info.diff_id)
            for path in info.implicit:
                for lower in reversed(infos[:position]):
                    if _differs(self._paths.layer_root(lower.diff_id), own, path):
                        return True
        return False

    def _merge_layers(self, infos: Sequence[LayerInfo]) -> list[MergeLayer]:
        return [
            MergeLayer(self._paths.layer_root(info.diff_id), implicit=info.implicit, opaque=info.root_opaque)
            for info in infos
        ]

    async def _merge(self, image: Image) -> None:
        draft = self._paths.scratch("merged")

        def work() -> None:
            (draft / "fs").mkdir(parents=True)
            merge(self._merge_layers(self._infos(image)), draft / "fs")
            with space_errors("merging layers"):
                sync_file_system(draft)
                draft.rename(self._paths.merged_root(image.digest).parent)
                sync_path(self._paths.merged)

        try:
            await in_thread(lambda _: work())
        finally:
            await asyncio.to_thread(remove_tree, draft)

    async def _build(self, image: Image, progress: Progress) -> None:
        path = self._paths.erofs(image.digest)
        if path.exists():
            return
        progress(ProgressEvent(phase="building rootfs", subject=image.digest, total_bytes=image.size_bytes))
        draft = self._paths.scratch("rootfs")
        try:
            source = await in_thread(lambda _: self._source(image, draft))
            disk = draft / "disk"
            await rootfs.build(source, disk, compression=self._compression)
            await in_thread(lambda _: self._publish(disk, path))
        finally:
            await asyncio.to_thread(remove_tree, draft)
        progress(
            ProgressEvent(
                phase="building rootfs",
                subject=image.digest,
                done_bytes=image.size_bytes,
                total_bytes=image.size_bytes,
            )
        )

    def _source(self, image: Image, draft: Path) -> Path:
        """The merged tree of an image; the layer itself where there is only one and it hides nothing."""
        infos = self._infos(image)
        require_space(self._paths.root, image.size_bytes, "the rootfs image")
        with space_errors("building the rootfs image"):
            (draft / "fs").mkdir(parents=True)
            if len(infos) == 1 and not infos[0].whiteouts:
                return self._paths.layer_root(infos[0].diff_id)
            merge(self._merge_layers(infos), draft / "fs")
        return draft / "fs"

    def _publish(self, disk: Path, path: Path) -> None:
        disk.rename(path)
        sync_path(path.parent)


def _differs(lower: Path, own: Path, path: bytes) -> bool:
    name = os.fsencode(lower) + b"/" + path
    try:
        below = os.lstat(name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISDIR(below.st_mode):
        return False
    above = os.lstat(os.fsencode(own) + b"/" + path)
    # Not the time: nobody relies on a directory's, and the root's alone would cost a merge of every image.
    return (below.st_mode, below.st_uid, below.st_gid) != (above.st_mode, above.st_uid, above.st_gid)
