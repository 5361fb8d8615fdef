"""Fields of tar headers and records of PAX headers. Pure functions."""

from __future__ import annotations

import re

from midge.errors import ImageInvalid

BLOCK = 512
_NS = 1_000_000_000
_PAX_NUMBER = re.compile(rb"[0-9]{1,19}")
_PAX_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]{0,32}))?")
# Record keys in one header: real ones have a handful plus one per extended attribute.
_RECORDS_MAX = 4096


def octets(raw: bytes) -> bytes:
    """A NUL-terminated field."""
    return raw.partition(b"\0")[0]


def number(raw: bytes, what: str, *, signed: bool = False) -> int:
    """A numeric field: octal digits, or GNU's base 256 when the first bit is set.

    Raises:
        ImageInvalid: it is neither, or negative where that makes no sense.
    """
    if raw[0] & 0x80:
        bits = len(raw) * 8 - 1
        value = int.from_bytes(raw, "big") & ((1 << bits) - 1)
        if value >> (bits - 1):
            value -= 1 << bits
    else:
        text = raw.strip(b"\0 ")
        try:
            value = int(text, 8) if text else 0
        except ValueError as error:
            raise ImageInvalid(f"a tar header's {what} field is not a number") from error
    if value < 0 and not signed:
        raise ImageInvalid(f"a tar header's {what} field is negative")
    return value


def pax_records(body: bytes) -> dict[bytes, bytes]:
    """The ``length key=value`` records of a PAX header, in order.

    The pairs of a sparse file (format 0.0: the same two keys again and again) are joined by commas into the
    one record of format 0.1.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    position = count = 0
    while position < len(body) and body[position] != 0:
        count += 1
        space = body.find(b" ", position, position + 20)
        digits = body[position:space] if space > 0 else b""
        if not _PAX_NUMBER.fullmatch(digits):
            raise ImageInvalid("a PAX record does not start with its length")
        end = position + int(digits)
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if end <= space + 1 or end > len(body) or body[end - 1] != ord("\n") or not equals or not key:
            raise ImageInvalid("a PAX record is damaged")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(value)
        else:
            records[key] = value
            if len(records) > _RECORDS_MAX:
                raise ImageInvalid(f"a PAX header has more than {_RECORDS_MAX} records")
        position = end
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def pax_number(records: dict[bytes, bytes], key: bytes, default: int) -> int:
    """A decimal record, or the default when it is absent or empty."""
    text = records.get(key)
    if not text:
        if default < 0:
            raise ImageInvalid(f"a PAX header lacks the record {key.decode()}")
        return default
    if not _PAX_NUMBER.fullmatch(text):
        raise ImageInvalid(f"the PAX record {key.decode('ascii', 'replace')} is not a number")
    return int(text)


def pax_time_ns(text: bytes | None, default_s: int) -> int:
    """A PAX time (decimal seconds, maybe with a fraction) in nanoseconds since 1970."""
    if not text:
        return default_s * _NS
    found = _PAX_TIME.fullmatch(text)
    if found is None:
        raise ImageInvalid("a PAX time is not a number")
    sign, whole, fraction = found.groups()
    value = int(whole) * _NS + int((fraction or b"").ljust(9, b"0")[:9])
    return -value if sign else value
