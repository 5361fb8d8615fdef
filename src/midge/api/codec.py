"""Bodies and query strings into typed values, with errors that name the member.

msgspec does the work; here its messages get the form the Machines API's clients know:
``invalid_argument: $.config.guest.cpus: expected int, got str``. Unknown members are ignored.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec

from midge.errors import InvalidInput, TooLarge

T = TypeVar("T")

QUERY_BYTES_MAX = 16 * 1024  # of a query string: longer than any list of filters
QUERY_FIELDS_MAX = 256  # parameters in one query string
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_ABSENT = object()


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
        raise InvalidInput(f"invalid_argument: {describe(error, at=at)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"invalid_argument: {at}: the JSON is malformed: {_lower(str(error))}") from error
    except RecursionError as error:
        raise InvalidInput(f"invalid_argument: {at}: the JSON is nested too deeply") from error


def describe(error: msgspec.ValidationError, *, at: str = "$") -> str:
    """``$.config.guest.cpus: expected int, got str``."""
    found = _AT.match(str(error))
    assert found is not None
    path = at + (found["path"] or "$")[1:]
    return f"{path}: {_lower(found['what']).replace('`', '')}"


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
