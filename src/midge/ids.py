"""Identifiers, in the forms the Machines API uses.

Machine: 14 lower-case hex digits. Version, event, request: ULID, 26 characters of Crockford base 32, ordered
by time. Lease nonce: 12 hex digits. Names: two words and a number.
"""

from __future__ import annotations

import random
import secrets
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_ADJECTIVES = (
    "aged ancient autumn billowing bitter black blue bold broken calm cold cool crimson damp dark dawn "
    "delicate dry empty falling floral fragrant frosty green hidden holy icy late lingering little lively "
    "long misty morning muddy nameless old patient polished proud purple quiet red restless rough shy "
    "silent small snowy solitary sparkling spring still summer throbbing twilight wandering weathered "
    "white wild winter wispy withered young"
).split()
_NOUNS = (
    "bird breeze brook bush butterfly cherry cloud darkness dawn dew dream dust feather field fire firefly "
    "flower fog forest frog frost glade glitter grass haze hill lake leaf meadow midge moon morning mountain "
    "night paper pine pond rain resonance river sea shadow shape silence sky smoke snow snowflake sound star "
    "sun sunset surf thunder tree violet voice water waterfall wave wildflower wind wood"
).split()


class UlidFactory:
    """Makes ULIDs that never go backwards within one process.

    Two made in the same millisecond differ by one in the random part, so their order is the order of making:
    events are sorted by id alone. They are unique, not secret: a generator seeded once by the system does.
    """

    def __init__(self) -> None:
        self._last = 0
        self._random = random.Random()

    def new(self, now_ms: int | None = None) -> str:
        ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        if ms << 80 <= self._last:
            value = self._last + 1
        else:
            # One bit is left free, so that counting up within a millisecond never reaches the next.
            value = (ms << 80) | self._random.getrandbits(79)
        self._last = value
        return encode_ulid(value)


_PAIRS = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)


def encode_ulid(value: int) -> str:
    """128 bits as 26 characters, two at a time."""
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])


def is_ulid(text: str) -> bool:
    """Whether it has a ULID's form: 26 digits, the first of which leaves 128 bits."""
    return len(text) == 26 and text[0] <= "7" and all(c in _CROCKFORD for c in text)


_ulids = UlidFactory()


def new_ulid() -> str:
    return _ulids.new()


def new_machine_id() -> str:
    """14 hex digits; the first is never 0, so that nothing reads it as a number with leading zeros."""
    return f"{secrets.randbelow(15) + 1:x}" + secrets.token_hex(7)[:13]


def new_nonce() -> str:
    return secrets.token_hex(6)


def new_name() -> str:
    """A machine name such as ``twilight-field-6033``."""
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}-{secrets.randbelow(9000) + 1000}"


def is_machine_id(text: str) -> bool:
    return len(text) == 14 and all(c in "0123456789abcdef" for c in text)
