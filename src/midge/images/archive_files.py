"""Random access to the files of an image layout or archive, under names that are only ever looked up.

Nothing is unpacked to disk under names the archive chose: it is indexed once (name → offset and length), and
its content is then read in place.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from midge.errors import ImageInvalid, InvalidInput
from midge.images.compression import chunks, decompressed
from midge.images.fs import RESOLVE_NO_SYMLINKS, open_in_root, space_errors
from midge.images.limits import CHUNK_BYTES, ImageLimits, check, exceeded
from midge.images.tar import Member, Source, TarReader
from midge.images.tar_fields import BLOCK


class Files(Protocol):
    """Named blobs of a layout or an archive."""

    def __contains__(self, name: object) -> bool: ...

    def open(self, name: str) -> BinaryIO: ...


class DirectoryFiles:
    """The plain files of a layout directory. Names in its documents can neither leave it nor follow links."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __contains__(self, name: object) -> bool:
        try:
            self.open(str(name)).close()
        except ImageInvalid:
            return False
        return True

    def open(self, name: str) -> BinaryIO:
        root_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Without O_NONBLOCK, a FIFO in the layout would hold us for ever.
            fd = open_in_root(root_fd, os.fsencode(name), os.O_RDONLY | os.O_NONBLOCK, RESOLVE_NO_SYMLINKS)
        except (OSError, ValueError) as error:
            raise ImageInvalid(f"the image layout has no readable file {name[:120]!r}") from error
        finally:
            os.close(root_fd)
        file = os.fdopen(fd, "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            file.close()
            raise ImageInvalid(f"{name[:120]!r} in the image layout is not a plain file")
        return file


class ArchiveFiles:
    """The members of an uncompressed tar file, found by one pass over its headers."""

    def __init__(self, path: Path, limits: ImageLimits) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        links: dict[str, str] = {}
        with path.open("rb") as file:
            reader = TarReader(_SeekingSource(file), limits)
            for count, member in enumerate(_members(file, reader)):
                if count >= limits.archive_entries:
                    raise exceeded("archive_entries", limits.archive_entries, "the archive")
                check(limits, "path_bytes", len(member.path) + len(member.target), "a path in the archive")
                name = posixpath.normpath(member.path.decode("utf-8", "surrogateescape"))
                if member.kind == "file" and member.segments is None:
                    self._places[name] = (file.tell(), member.size_bytes)
                elif member.kind in ("symlink", "hardlink"):
                    target = member.target.decode("utf-8", "surrogateescape")
                    # Old `docker save` stores a layer once and links to it: ../<id>/layer.tar
                    base = posixpath.dirname(name) if member.kind == "symlink" else ""
                    links[name] = posixpath.normpath(posixpath.join(base, target))
        for name, target in links.items():
            if name not in self._places and target in self._places:
                self._places[name] = self._places[target]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def open(self, name: str) -> BinaryIO:
        place = self._places.get(name)
        if place is None:
            raise ImageInvalid(f"the archive has no file {name[:120]!r}")
        return cast(BinaryIO, io.BufferedReader(_Slice(self._path, *place), CHUNK_BYTES))


def no_image_archive() -> ImageInvalid:
    """It names no file: an upload's name is ours, and says nothing to whoever sent it."""
    return ImageInvalid(
        "it is neither an OCI image layout nor a docker save archive",
        hint="make one with: skopeo copy docker://… oci:directory, or docker save -o file.tar",
    )


def _members(file: BinaryIO, reader: TarReader) -> Iterator[Member]:
    """Members of an archive. What does not even begin with a header is no tar at all, rather than a damaged one."""
    members = reader.members()
    try:
        first = next(members, None)
    except ImageInvalid:
        if file.tell() > BLOCK:
            raise
        raise no_image_archive() from None
    if first is not None:
        yield first
        yield from members


class _SeekingSource(Source):
    """Reads a tar from a file and skips over content by seeking."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(iter(()))
        self._file = file
        self._end = os.fstat(file.fileno()).st_size

    def take(self, size: int) -> bytes:
        return self._file.read(min(size, CHUNK_BYTES))

    def skip(self, size: int) -> bool:
        self._file.seek(size, os.SEEK_CUR)
        return self._file.tell() <= self._end


class _Slice(io.RawIOBase):
    """A part of a file as a stream of its own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        super().__init__()
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._offset = offset
        self._end = offset + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        data = os.pread(self._fd, min(len(view), self._end - self._offset), self._offset)
        view[: len(data)] = data
        self._offset += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def open_files(path: Path, scratch: Path, limits: ImageLimits) -> Files:
    """The files of a layout directory or an archive, which is first decompressed to `scratch` if it must be."""
    if path.is_dir():
        return DirectoryFiles(path)
    if not path.is_file():
        raise InvalidInput(f"{path} is neither a file nor a directory")
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}") from error
    with ExitStack() as stack:
        stack.enter_context(file)
        if file.read(2) not in (b"\x1f\x8b", b"\x28\xb5"):
            return ArchiveFiles(path, limits)
        file.seek(0)
        out = stack.enter_context(scratch.open("wb"))
        written = 0
        with space_errors("decompressing the archive"):
            for data in decompressed(chunks(file)):
                written += len(data)
                check(limits, "archive_bytes", written, "the archive")
                out.write(data)
    return ArchiveFiles(scratch, limits)
