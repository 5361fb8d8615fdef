"""The four ways GNU tar writes down where a sparse file has data ("Storing Sparse Files" in its manual)."""

from __future__ import annotations

from typing import Protocol

from midge.errors import ImageInvalid
from midge.images.limits import exceeded
from midge.images.tar_fields import BLOCK, number, pax_number

Segment = tuple[int, int]

# Decimal digits of a number in a format 1.0 map; 19 hold every 63-bit number.
_DIGITS_MAX = 19


class Bytes(Protocol):
    def exactly(self, size: int) -> bytes: ...


def old_gnu_map(header: bytes, source: Bytes, most: int) -> tuple[int, list[Segment]]:
    """Type ``S``: four pairs in the header, 21 in each block that follows while a flag says so."""
    size = number(header[483:495], "real size")
    segments = _pairs(header, 386, 4)
    more = header[482] != 0
    while more:
        block = source.exactly(BLOCK)
        if not block:
            raise ImageInvalid("the layer's tar ends within a sparse map")
        segments += _pairs(block, 0, 21)
        more = block[504] != 0
        if len(segments) > most:
            raise exceeded("sparse_segments", most, "a sparse file")
    return size, segments


def pax_map(records: dict[bytes, bytes], most: int) -> tuple[int, list[Segment]]:
    """PAX formats 0.0 and 0.1: one record with all numbers, separated by commas."""
    size = pax_number(records, b"GNU.sparse.size", -1)
    text = records.get(b"GNU.sparse.map", b"")
    if text.count(b",") > 2 * most:
        raise exceeded("sparse_segments", most, "a sparse file")
    return size, _paired([_decimal(part) for part in text.split(b",")] if text else [])


def pax_map_in_data(source: Bytes, stored_bytes: int, most: int) -> tuple[list[Segment], int]:
    """PAX format 1.0: the map is the start of the data, decimal lines padded to a block.

    Returns:
        The segments, and how many of the stored bytes the map took.
    """
    used = 0
    lines: list[bytes] = []
    rest = b""
    wanted = 1
    while len(lines) < wanted:
        if used + BLOCK > stored_bytes:
            raise ImageInvalid("a sparse file's map goes past its data")
        block = source.exactly(BLOCK)
        if not block:
            raise ImageInvalid("the layer's tar ends within a sparse map")
        used += BLOCK
        *complete, rest = (rest + block).split(b"\n")
        lines += complete
        if wanted == 1 and lines:
            count = _decimal(lines[0])
            if count > most:
                raise exceeded("sparse_segments", most, "a sparse file")
            wanted = 1 + 2 * count
        if len(rest) > BLOCK and len(lines) < wanted:
            raise ImageInvalid("a sparse file's map is damaged")
    return _paired([_decimal(line) for line in lines[1:wanted]]), used


def _pairs(block: bytes, start: int, count: int) -> list[Segment]:
    found: list[Segment] = []
    for at in range(start, start + 24 * count, 24):
        if block[at] == 0:
            break
        found.append(
            (number(block[at : at + 12], "sparse offset"), number(block[at + 12 : at + 24], "sparse size"))
        )
    return found


def _paired(numbers: list[int]) -> list[Segment]:
    if len(numbers) % 2:
        raise ImageInvalid("a sparse file's map has an odd number of entries")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > _DIGITS_MAX:
        raise ImageInvalid("a sparse file's map is not made of numbers")
    return int(text)
