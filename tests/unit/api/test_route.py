"""Finding routes, declaring them, reading queries and cursors."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from midge.api.call import Call
from midge.api.codec import QueryCodec, decode_json
from midge.api.paging import CURSOR_TTL_S, decode_cursor, encode_cursor
from midge.api.regions import choose_region, region_of
from midge.api.route import Router, Routes
from midge.errors import InvalidInput, NoCapacity


class Query(msgspec.Struct, kw_only=True, frozen=True):
    name: str = ""
    count: Annotated[int, Meta(ge=1)] | None = None
    flag: bool = False
    state: list[str] = []
    metadata: dict[str, str] = {}


class Inner(msgspec.Struct):
    size: int


class Body(msgspec.Struct):
    inner: Inner | None = None


def declared() -> Routes:
    routes = Routes(tag="t")

    @routes.get("/a/{x}")
    async def one(call: Call[Query, None]) -> None: ...

    @routes.post("/a/{x}")
    async def two(call: Call[None, Body | None]) -> None: ...

    @routes.get("/a/fixed")
    async def three(call: Call[None, Body]) -> Body: ...

    @routes.get("/a/{other}/b/{y}")
    async def four(call: Call[None, None]) -> None: ...

    @routes.get("/files/{path...}")
    async def five(call: Call[None, None]) -> None: ...

    return routes


@pytest.mark.parametrize(
    ("method", "path", "name", "parameters"),
    [
        ("GET", "/a/1", "one", {"x": "1"}),
        ("POST", "/a/1", "two", {"x": "1"}),
        ("GET", "/a/fixed", "three", {}),
        ("GET", "/a/1/b/2", "four", {"other": "1", "y": "2"}),
        ("GET", "/a/%C3%BC%2F%20", "one", {"x": "ü/ "}),
        ("GET", "/files/a/b/c%20d", "five", {"path": "a/b/c d"}),
        ("GET", "/files/a//b/", "five", {"path": "a//b/"}),
    ],
)
def test_paths_are_found(method: str, path: str, name: str, parameters: dict[str, str]) -> None:
    found = Router(declared().routes).find(method, path)
    assert found is not None
    assert (found[0].name, found[1]) == (name, parameters)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", ""),
        ("GET", "/a"),
        ("GET", "/a/"),
        ("GET", "/a/1/"),
        ("GET", "/a/1/b"),
        ("PUT", "/a/1"),
        ("GET", "/files"),
        ("GET", "/files/"),
        ("GET", "a/1"),
    ],
)
def test_paths_are_not_found(method: str, path: str) -> None:
    assert Router(declared().routes).find(method, path) is None


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/a/1", ["GET", "HEAD", "POST"]),
        ("/a/fixed", ["GET", "HEAD"]),
        ("/files/a/b", ["GET", "HEAD"]),
        ("/files/", []),
        ("/a", []),
    ],
)
def test_a_path_tells_its_methods(path: str, methods: list[str]) -> None:
    assert Router(declared().routes).allowed(path) == methods


def test_a_head_takes_the_route_of_the_get() -> None:
    router = Router(declared().routes)
    assert router.find("HEAD", "/a/1") == router.find("GET", "/a/1")
    assert router.find("HEAD", "/files/a") == router.find("GET", "/files/a")


def test_a_route_is_declared_once() -> None:
    routes = declared().routes
    with pytest.raises(ValueError, match="declared twice"):
        Router([*routes, routes[0]])


def test_annotations_are_the_declaration() -> None:
    one, two, three, *_ = declared().routes
    assert one.query is not None and one.query.kind is Query
    assert (one.body, one.decoder) == (None, None)
    assert (two.body, two.body_optional) == (Body, True)
    assert (three.body, three.body_optional, three.response) == (Body, False, Body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Query()),
        ("name=a+b%20c", Query(name="a b c")),
        ("count=5&count=6", Query(count=6)),
        ("count=&flag=", Query()),
        ("flag=true", Query(flag=True)),
        ("flag=1", Query(flag=True)),
        ("state=a,b&state=c&state=", Query(state=["a", "b", "c"])),
        ("metadata.k=v&metadata.a.b=c&metadata.e=", Query(metadata={"k": "v", "a.b": "c", "e": ""})),
        ("other=1&other.x=2&metadata=3", Query()),
    ],
)
def test_queries_are_read(text: str, expected: Query) -> None:
    found = QueryCodec(Query).decode(text.encode())
    if "metadata=3" in text:
        expected = Query()
    assert found == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count=x", "query parameter count: expected int | null, got str: 'x'"),
        ("count=0", "query parameter count: expected int >= 1: '0'"),
        ("flag=maybe", "query parameter flag: expected bool, got str: 'maybe'"),
    ],
)
def test_queries_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        QueryCodec(Query).decode(text.encode())
    assert str(caught.value) == f"invalid_argument: {message}"


def test_a_path_can_begin_inside_the_document() -> None:
    decoder: Any = msgspec.json.Decoder(Body)
    with pytest.raises(InvalidInput, match=r"\$\.config\.inner\.size: expected int, got str"):
        decode_json(b'{"inner": {"size": "x"}}', decoder, at="$.config")


def test_a_cursor_lasts_half_an_hour() -> None:
    cursor = encode_cursor("abc.def", now_s=1000)
    assert decode_cursor(cursor, now_s=1000 + CURSOR_TTL_S) == "abc.def"
    with pytest.raises(InvalidInput, match="expired"):
        decode_cursor(cursor, now_s=1001 + CURSOR_TTL_S)
    assert decode_cursor("") == ""


@pytest.mark.parametrize("cursor", ["x", "====", "YWJj", "é", "a" * 1000])
def test_a_forged_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput):
        decode_cursor(cursor)


@pytest.mark.parametrize(
    ("wanted", "here", "fits"),
    [
        ("", "ord", True),
        ("ord", "ord", True),
        ("lhr,ord", "ord", True),
        ("us", "ord", True),
        ("eu", "ord", False),
        ("eu,us", "ord", True),
        ("lhr", "ord", False),
        ("any", "ord", True),
        ("eu", "cellar", True),
        ("ord", "cellar", False),
        (",", "ord", True),
    ],
)
def test_regions(wanted: str, here: str, fits: bool) -> None:
    if fits:
        assert choose_region(wanted, here) == here
        return
    with pytest.raises(NoCapacity):
        choose_region(wanted, here)


def test_a_region_of_ones_own_has_a_name() -> None:
    assert region_of("cellar").name == "Cellar"
    assert region_of("fra").geo_region == "europe"
