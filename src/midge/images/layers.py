"""Unpacks one layer into a directory in overlayfs form, trusting nothing in it.

    compressed bytes ─ digest, size ─ decompress ─ diff_id, limits ─ tar ─ LayerWriter ─ Tree (never leaves its root)

``.wh.x`` becomes a character device 0:0 named ``x``, ``.wh..wh..opq`` the attribute trusted.overlay.opaque on its
directory (kernel: Documentation/filesystems/overlayfs.rst; OCI image-spec, layer.md). Entries are applied in
order, the last one wins; a directory that takes the place of something else becomes opaque, because that
something hid the lower layers' directory of this name.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from midge.errors import ImageInvalid, NotSupported
from midge.images.compression import chunks, decompressed
from midge.images.fs import space_errors
from midge.images.limits import DEFAULT_LIMITS, ImageLimits, check, exceeded
from midge.images.model import LayerInfo
from midge.images.tar import Source, TarReader
from midge.images.tree import Tree, clean, show
from midge.images.writer import LayerWriter

# What the kernel answers to entries no sane layer contains, as opposed to trouble of the host.
_HOSTILE_ERRORS = frozenset(
    {
        errno.ELOOP,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENOENT,
        errno.EEXIST,
        errno.EINVAL,
        errno.ENAMETOOLONG,
        errno.EMLINK,
        errno.EFBIG,
        errno.EXDEV,
    }
)

Advance = Callable[[int], None]


class LayerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest and its configuration say about a layer. Empty digest and negative size: not known."""

    diff_id: str
    digest: str = ""
    size_bytes: int = -1


class _Meter:
    """Counts and hashes the bytes of a layer on both sides of the decompressor."""

    def __init__(self, spec: LayerSpec, limits: ImageLimits, advance: Advance) -> None:
        self._spec = spec
        self._limits = limits
        self._advance = advance
        self._compressed = hashlib.sha256()
        self._plain = hashlib.sha256()
        self.compressed_bytes = 0
        self.unpacked_bytes = 0

    def compressed(self, source: Iterator[bytes]) -> Iterator[bytes]:
        for data in source:
            self.compressed_bytes += len(data)
            check(self._limits, "compressed_layer_bytes", self.compressed_bytes, "a layer")
            if self._spec.digest:
                self._compressed.update(data)
            yield data

    def plain(self, source: Iterator[bytes]) -> Iterator[bytes]:
        for data in source:
            self._plain.update(data)
            self._advance(self.compressed_bytes)
            self.add(len(data))
            yield data

    def add(self, count: int) -> None:
        """More unpacked bytes: from the stream, or holes a sparse file would blow up to."""
        self.unpacked_bytes += count
        check(self._limits, "unpacked_layer_bytes", self.unpacked_bytes, "an unpacked layer")
        if (
            self.unpacked_bytes > self._limits.ratio_floor_bytes
            and self.unpacked_bytes > self._limits.ratio * self.compressed_bytes
        ):
            raise exceeded("ratio", self._limits.ratio, "a layer's compression")

    def verify(self) -> None:
        """Raises `ImageInvalid` unless digests and size are as announced."""
        spec = self._spec
        if spec.size_bytes >= 0 and spec.size_bytes != self.compressed_bytes:
            raise ImageInvalid(
                f"layer {spec.digest} has {self.compressed_bytes} bytes where its manifest says {spec.size_bytes}"
            )
        if spec.digest and spec.digest != f"sha256:{self._compressed.hexdigest()}":
            raise ImageInvalid(f"the content of layer {spec.digest} does not match its digest")
        if spec.diff_id != f"sha256:{self._plain.hexdigest()}":
            raise ImageInvalid(f"the unpacked content of a layer does not match its diff_id {spec.diff_id}")


def _nobody(_: int) -> None:
    pass


def unpack_layer(
    stream: BinaryIO,
    root: Path,
    spec: LayerSpec,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    advance: Advance = _nobody,
) -> LayerInfo:
    """Unpacks a layer (gzip, zstd or plain tar) into the existing, empty directory `root`.

    Blocking; needs root privileges (owners, device nodes, trusted attributes).

    Args:
        advance: called with the compressed bytes read so far; it may raise to give up.
    Raises:
        ImageInvalid: damaged, over a limit, hostile, or not the content its digests promise.
        OutOfSpace: the disk or quota is full.
        NotSupported: missing privileges or kernel features.
    """
    meter = _Meter(spec, limits, advance)
    source = Source(meter.plain(decompressed(meter.compressed(chunks(stream)))))
    with space_errors(f"unpacking layer {spec.diff_id}"):
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with Tree(root_fd, limits) as tree:
                writer = LayerWriter(tree, limits)
                entries = _apply(TarReader(source, limits), writer, meter, limits)
                source.drain()
                meter.verify()
                writer.finish()
        except PermissionError as error:
            raise NotSupported(
                "unpacking an image needs root privileges", hint="run the worker as root"
            ) from error
        finally:
            os.close(root_fd)
    return LayerInfo(
        diff_id=spec.diff_id,
        unpacked_bytes=meter.unpacked_bytes,
        entries=entries,
        whiteouts=writer.whiteouts,
        root_opaque=writer.root_opaque,
        implicit=sorted(tree.implicit),
        dropped_devices=writer.dropped_devices,
    )


def _apply(reader: TarReader, writer: LayerWriter, meter: _Meter, limits: ImageLimits) -> int:
    entries = 0
    for member in reader.members():
        entries += 1
        if entries > limits.layer_entries:
            raise exceeded("layer_entries", limits.layer_entries, "a layer")
        path = clean(member.path, limits)
        if member.segments is not None:
            meter.add(member.size_bytes - sum(length for _, length in member.segments))
        try:
            writer.put(path, member, reader.data())
        except OSError as error:
            if error.errno in _HOSTILE_ERRORS:
                raise ImageInvalid(f"the entry {show(path)} cannot be made") from error
            raise
    return entries
