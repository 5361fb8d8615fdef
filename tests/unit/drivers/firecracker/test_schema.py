"""What we send and what we read, against the API's own description."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from midge.drivers.firecracker import bodies as b
from midge.drivers.firecracker.boot import configure
from midge.drivers.firecracker.guest import limit_requests, load_request
from midge.drivers.firecracker.settings import IoLimits, Limit
from midge.drivers.firecracker.version import Version
from tests.unit.drivers.firecracker.parts import make_recipe, make_settings
from tests.unit.drivers.firecracker.schema import Description

BODIES = sorted(b.Body.__subclasses__(), key=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def description() -> Description:
    return Description()


def sent(body: b.Body) -> Any:
    """As the API will see it."""
    return msgspec.json.decode(msgspec.json.encode(body))


def variants(kind: Any) -> Iterator[Any]:
    """Values of a type: least and fullest of a struct, and each choice of a literal."""
    kind = msgspec.inspect.type_info(kind) if not isinstance(kind, msgspec.inspect.Type) else kind
    match kind:
        case msgspec.inspect.StructType():
            required = {field.name: list(variants(field.type)) for field in kind.fields if field.required}
            every = {field.name: list(variants(field.type)) for field in kind.fields}
            for fields in (required, every):
                longest = max((len(values) for values in fields.values()), default=1)
                for turn in range(longest):
                    yield kind.cls(**{name: values[turn % len(values)] for name, values in fields.items()})
        case msgspec.inspect.UnionType():
            yield from itertools.chain.from_iterable(
                variants(each) for each in kind.types if not isinstance(each, msgspec.inspect.NoneType)
            )
        case msgspec.inspect.VarTupleType():
            yield tuple(variants(kind.item_type))
        case msgspec.inspect.LiteralType():
            yield from kind.values
        case msgspec.inspect.IntType():
            yield from (kind.ge or 0, kind.le or 2**40)
        case msgspec.inspect.BoolType():
            yield from (True, False)
        case msgspec.inspect.StrType():
            yield "/text"
        case _:
            raise AssertionError(f"no values for {kind}")


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_every_body_is_one_the_api_knows(kind: type[b.Body], description: Description) -> None:
    schema = description.body(kind.METHOD, kind.PATH)
    bodies = list(variants(kind))
    assert bodies
    for body in bodies:
        assert description.errors(sent(body), schema) == []


def test_every_boot_is_one_the_api_knows(description: Description) -> None:
    for tracked in (False, True):
        for body in configure(make_recipe(track_dirty_pages=tracked), "tap0"):
            assert description.errors(sent(body), description.body(body.METHOD, body.PATH)) == []


@pytest.mark.parametrize("snapshot", [None, {"tap": "tap9", "vsock": "/old.sock"}])
def test_every_restore_is_one_the_api_knows(description: Description, snapshot: Any) -> None:
    request = load_request(
        Version((1, 17, 0), "1.17.0"), tap="tap0", snapshot=snapshot, track_dirty_pages=True
    )
    schema = description.body("PUT", "/snapshot/load")
    assert description.errors(sent(request), schema) == []


def test_every_limit_is_one_the_api_knows(description: Description) -> None:
    limits = IoLimits(bandwidth=Limit(size=1_000_000), operations=Limit(size=500, refill_ms=100))
    settings = make_settings(drive_limits=limits, rx_limits=limits, tx_limits=limits)
    requests = limit_requests(settings)
    assert len(requests) == 2
    for body in requests:
        assert description.errors(sent(body), description.body(body.METHOD, body.PATH)) == []


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_success_of_every_request_has_no_body(kind: type[b.Body], description: Description) -> None:
    operation = description.operation(kind.METHOD, kind.PATH)
    assert 204 in operation["responses"]
    assert description.answer(kind.METHOD, kind.PATH, 204) is None


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_every_refusal_is_a_fault(kind: type[b.Body], description: Description) -> None:
    for status in (400, 500):
        schema = description.answer(kind.METHOD, kind.PATH, status)
        assert schema is not None
        assert description.errors({"fault_message": "text"}, schema) == []
    assert [field.name for field in msgspec.structs.fields(b.Fault)] == ["fault_message"]


def test_what_an_instance_says_of_itself_is_understood(description: Description) -> None:
    schema = description.answer("GET", "/", 200)
    assert schema is not None
    members = {field.name for field in msgspec.structs.fields(b.InstanceInfo)}
    assert members <= set(schema["required"])
    states = typing.get_args(typing.get_type_hints(b.InstanceInfo)["state"])
    assert set(states) == set(schema["properties"]["state"]["enum"])
