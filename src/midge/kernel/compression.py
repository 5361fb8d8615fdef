"""Decompresses what kernels and modules are shipped in, recognised by its first bytes."""

from __future__ import annotations

import bz2
import lzma
import struct
import sys
import zlib
from collections.abc import Callable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# A vmlinux is some 60 MB; nobody's is a gigabyte, and a forged one must not fill memory.
OUTPUT_BYTES_MAX = 1 << 30

_LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"


def decompress(data: bytes) -> bytes:
    """`data` decompressed, or itself if it is not compressed; bytes after the end of the stream are ignored.

    Raises:
        ValueError: the stream is broken, cut short, or decompresses to more than OUTPUT_BYTES_MAX.
    """
    for magic, function in _FORMATS:
        if data.startswith(magic):
            try:
                return function(data)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, struct.error, IndexError) as error:
                raise ValueError("broken compressed data") from error
            except zstd.ZstdError as error:
                raise ValueError("broken compressed data") from error
    return data


def is_compressed(data: bytes) -> bool:
    return any(data.startswith(magic) for magic, _ in _FORMATS)


def _gzip(data: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    return _finish(stream.decompress(data, OUTPUT_BYTES_MAX), stream.eof)


def _xz(data: bytes) -> bytes:
    stream = lzma.LZMADecompressor()
    return _finish(stream.decompress(data, OUTPUT_BYTES_MAX), stream.eof)


def _bzip2(data: bytes) -> bytes:
    stream = bz2.BZ2Decompressor()
    return _finish(stream.decompress(data, OUTPUT_BYTES_MAX), stream.eof)


def _zstd(data: bytes) -> bytes:
    stream = zstd.ZstdDecompressor()
    return _finish(bytes(stream.decompress(data, OUTPUT_BYTES_MAX)), stream.eof)


def _finish(output: bytes, complete: bool) -> bytes:
    if not complete:
        raise ValueError("compressed data is cut short, or too large")
    return output


def _lz4_legacy(data: bytes) -> bytes:
    """The format `lz4 -l` writes and kernels are packed in: magic, then blocks of a length and up to 8 MiB."""
    output = bytearray()
    position = 4
    while position + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, position)
        position += 4
        # A kernel image carries its unpacked length, not a block, after the last block.
        if size == 0 or position + size > len(data):
            break
        _lz4_block(data[position : position + size], output)
        if len(output) > OUTPUT_BYTES_MAX:
            raise ValueError("compressed data is too large")
        position += size
    return bytes(output)


def _lz4_block(block: bytes, output: bytearray) -> None:
    """Appends one block, by the description in lz4's doc/lz4_Block_format.md.

    Matches never reach into an earlier block of this format, but looking back there does no harm.
    """
    position, end = 0, len(block)
    while position < end:
        token = block[position]
        position += 1
        literals = token >> 4
        if literals == 15:
            more = 255
            while more == 255:
                more = block[position]
                literals += more
                position += 1
        output += block[position : position + literals]
        position += literals
        if position >= end:
            return
        offset = block[position] | block[position + 1] << 8
        position += 2
        length = (token & 15) + 4
        if length == 19:
            more = 255
            while more == 255:
                more = block[position]
                length += more
                position += 1
        start = len(output) - offset
        if offset == 0 or start < 0:
            raise ValueError("broken lz4 block")
        if offset >= length:
            output += output[start : start + length]
        else:
            pattern = bytes(output[start:])
            output += (pattern * (length // offset + 1))[:length]


_FORMATS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b\x08", _gzip),
    (b"\xfd7zXZ\0", _xz),
    (b"BZh", _bzip2),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (_LZ4_LEGACY_MAGIC, _lz4_legacy),
)
