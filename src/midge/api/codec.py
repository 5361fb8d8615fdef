"""Bodies and query strings into typed values, with errors that name the member.

msgspec does the work; here its messages get the form the Machines API's clients know:
``invalid_argument: $.config.guest.cpus: expected int, got str``. Unknown members are ignored.
"""

from __future__ import annotations

import re
from typing import Any, Final, Generic, TypeVar, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec

from midge.errors import InvalidInput, TooLarge

T = TypeVar("T")

QUERY_BYTES_MAX = 16 * 1024  # of a query string: longer than any list of filters
QUERY_FIELDS_MAX = 256  # parameters in one query string
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_ABSENT: Final = object()
_UNNAMED_KEY = "[...]"  # how msgspec writes "some key of this mapping"
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")  # of a path up to there: a member, or an index
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_KEY_SHOWN_MAX = 64  # characters of a key in an error
_MAPPINGS_MAX = 4  # mappings within mappings in one path: no document has more


def decode_json(data: bytes, decoder: msgspec.json.Decoder[T], *, at: str = "$") -> T:
    """Decodes and checks a JSON text.

    Args:
        at: path of `data` in the whole document, for the error.

    Raises:
        InvalidInput: malformed JSON, or a member of the wrong type.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        named = _with_keys(data, decoder, str(error))
        raise InvalidInput(f"invalid_argument: {_described(named, at=at)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = _lower(str(error).removeprefix("JSON is malformed: "))
        raise InvalidInput(f"invalid_argument: {at}: the JSON is malformed: {why}") from error
    except RecursionError as error:
        raise InvalidInput(f"invalid_argument: {at}: the JSON is nested too deeply") from error


def describe(error: msgspec.ValidationError, *, at: str = "$") -> str:
    """``$.config.guest.cpus: expected int, got str``."""
    return _described(str(error), at=at)


def _described(text: str, *, at: str) -> str:
    found = _AT.match(text)
    assert found is not None
    path = at + (found["path"] or "$")[1:]
    return f"{path}: {_lower(found['what']).replace('`', '')}"


def _with_keys(data: bytes, decoder: msgspec.json.Decoder[T], text: str) -> str:
    """The error's text with the keys of mappings that msgspec leaves out of its path, as far as they can be found.

    Which key it is, the decoder itself tells: it refuses every part of the mapping that has the key.
    """
    *heads, tail = text.split(_UNNAMED_KEY, _MAPPINGS_MAX)
    named = ""
    try:
        member = document = msgspec.json.decode(data) if heads else None
        for head in heads:
            member = _member(member, head.rpartition("`$")[2])
            key = _refused_key(document, member, decoder, text) if isinstance(member, dict) else None
            if key is None:
                return text
            member = member[key]
            named += head + _shown(key)
    except (msgspec.MsgspecError, RecursionError):
        return text
    return named + tail


def _shown(key: str) -> str:
    if len(key) <= _KEY_SHOWN_MAX and _PLAIN_KEY.fullmatch(key):
        return f".{key}"
    return f"[{key[:_KEY_SHOWN_MAX].replace('`', '')!r}]"


def _member(document: Any, path: str) -> Any:
    """What is at ``.config.env`` of a document; None if nothing is."""
    for name, index in _STEP.findall(path):
        if name and isinstance(document, dict):
            document = document.get(name)
        elif index and isinstance(document, list) and int(index) < len(document):
            document = document[int(index)]
        else:
            return None
    return document


def _refused_key(
    document: Any, mapping: dict[str, Any], decoder: msgspec.json.Decoder[T], text: str
) -> str | None:
    """Halves `mapping`, a part of `document`, until the refused key is all it has."""

    def refused(part: list[tuple[str, Any]]) -> bool:
        mapping.clear()
        mapping.update(part)
        try:
            decoder.decode(msgspec.json.encode(document))
        except msgspec.ValidationError as error:
            return str(error) == text
        return False

    items = list(mapping.items())
    while len(items) > 1:
        half = len(items) // 2
        items = items[:half] if refused(items[:half]) else items[half:]
    return items[0][0] if items and refused(items) else None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


class QueryCodec(Generic[T]):
    """Query strings of one route into its struct.

    A parameter may come more than once for a field that is a list, which also splits at commas; a field that is a
    mapping takes every parameter that starts with its name and a dot. For other fields the last one counts, and
    an empty value is an absent one, because Go clients send ``?timeout=``.
    """

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self._scalars: set[str] = set()
        self._lists: set[str] = set()
        self._maps: set[str] = set()
        for name, hint in get_type_hints(kind).items():
            origin = get_origin(hint)
            (self._lists if origin is list else self._maps if origin is dict else self._scalars).add(name)
        self._nothing = kind()

    def decode(self, query: bytes) -> T:
        """Raises InvalidInput."""
        if not query:
            return self._nothing
        if len(query) > QUERY_BYTES_MAX:
            raise TooLarge(
                f"the query string has more than {QUERY_BYTES_MAX} bytes", limit_bytes=QUERY_BYTES_MAX
            )
        try:
            pairs = parse_qsl(
                query.decode("latin-1"), keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX
            )
        except ValueError as error:
            raise InvalidInput(f"invalid_argument: the query string is malformed: {error}") from error
        values = self._collect(pairs)
        try:
            return msgspec.convert(values, self.kind, strict=False)
        except msgspec.ValidationError as error:
            raise self._invalid(error, values) from error

    def _collect(self, pairs: list[tuple[str, str]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in self._scalars:
                if value:
                    values[key] = value
            elif key in self._lists:
                values.setdefault(key, []).extend(part for part in value.split(",") if part)
            elif "." in key:
                head, _, tail = key.partition(".")
                if head in self._maps:
                    values.setdefault(head, {})[tail] = value
        return values

    def _invalid(self, error: msgspec.ValidationError, values: dict[str, Any]) -> InvalidInput:
        what = describe(error).removeprefix("$.")
        name = re.split(r"[:.\[]", what, maxsplit=1)[0]
        given = values.get(name, _ABSENT)
        shown = "" if given is _ABSENT else f": {str(given)[:64]!r}"
        return InvalidInput(f"invalid_argument: query parameter {what}{shown}")
