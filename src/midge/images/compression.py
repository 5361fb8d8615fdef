"""Layer compression: gzip, zstd and none, told apart by their first bytes.

The media type is not consulted: builders get it wrong, and the content's digest covers the bytes either way.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from midge.errors import ImageInvalid
from midge.images.limits import CHUNK_BYTES

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
    from compression.zstd import compress as zstd_compress
else:
    from backports.zstd import ZstdDecompressor, ZstdError
    from backports.zstd import compress as zstd_compress

__all__ = ["chunks", "decompressed", "zstd_compress"]

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
# A zstd stream may start with a skippable frame: magic 0x184D2A50 to 0x184D2A5F (RFC 8878, 3.1.2).
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"


class _Decompressor(Protocol):
    def feed(self, data: bytes) -> bytes: ...

    @property
    def pending(self) -> bool: ...

    @property
    def complete(self) -> bool: ...


class _Gzip:
    """One or more gzip members, at most CHUNK_BYTES of output a call."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._input = b""
        self._full = False

    def feed(self, data: bytes) -> bytes:
        self._input += data
        self._full = False
        if self._inner.eof:
            if not self._input:
                return b""
            self._inner = zlib.decompressobj(wbits=31)
        out = self._inner.decompress(self._input, CHUNK_BYTES)
        self._input = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail
        # zlib may hold output back although it took all input: then a call without input brings the rest.
        self._full = len(out) == CHUNK_BYTES
        return out

    @property
    def pending(self) -> bool:
        return bool(self._input) or self._full

    @property
    def complete(self) -> bool:
        return self._inner.eof and not self._input


class _Zstd:
    """One or more zstd frames, at most CHUNK_BYTES of output a call."""

    def __init__(self) -> None:
        self._inner = ZstdDecompressor()
        self._next = b""

    def feed(self, data: bytes) -> bytes:
        if self._inner.eof:
            data = self._next + data
            self._next = b""
            if not data:
                return b""
            self._inner = ZstdDecompressor()
        out: bytes = self._inner.decompress(data, CHUNK_BYTES)
        if self._inner.eof:
            self._next = self._inner.unused_data
        return out

    @property
    def pending(self) -> bool:
        return bool(self._next) if self._inner.eof else not self._inner.needs_input

    @property
    def complete(self) -> bool:
        return self._inner.eof and not self._next


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The rest of a stream, CHUNK_BYTES at a time."""
    while data := stream.read(CHUNK_BYTES):
        yield data


def decompressed(source: Iterator[bytes]) -> Iterator[bytes]:
    """The uncompressed bytes of a layer, at most CHUNK_BYTES at a time whatever the compression ratio.

    Raises:
        ImageInvalid: the compressed stream is damaged or ends early.
    """
    head = b""
    for data in source:
        head += data
        if len(head) >= len(_ZSTD):
            break
    decompressor = _choose(head)
    if decompressor is None:
        if head:
            yield head
        yield from source
        return
    try:
        yield from _drain(decompressor, head)
        for data in source:
            yield from _drain(decompressor, data)
    except (zlib.error, ZstdError) as error:
        raise ImageInvalid("the layer's compressed data is damaged") from error
    if not decompressor.complete:
        raise ImageInvalid("the layer's compressed data ends early")


def _choose(head: bytes) -> _Decompressor | None:
    if head.startswith(_GZIP):
        return _Gzip()
    if head.startswith(_ZSTD) or (head[1:4] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):
        return _Zstd()
    return None


def _drain(decompressor: _Decompressor, data: bytes) -> Iterator[bytes]:
    out = decompressor.feed(data)
    if out:
        yield out
    while decompressor.pending:
        out = decompressor.feed(b"")
        if out:
            yield out
