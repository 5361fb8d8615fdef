"""Whatever is sent: no 500, no hang, every answer as described."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from midge.api.app import all_routes
from midge.api.metrics import Metrics
from midge.api.route import Route
from midge.api.services import Services
from midge.central.store import Central
from midge.testing.host import staged_host

from .client import CheckedClient
from .conftest import IMAGE

EXAMPLES = 25  # sequences of requests; each opens a database
REQUESTS_MAX = 30

_LONG = {"/v1/apps/{app_name}/machines/{machine_id}/wait"}  # a legal request may take a minute
_WORDS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["web", "personal", "started", "1", "-1", "true", "5s", "local", "any", "~", "..", "SIGTERM"]
    ),
)
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), _WORDS
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_WORDS, inner, max_size=3)),
    max_leaves=8,
)
_CONFIG_MEMBERS = ("guest", "env", "restart", "files", "services", "init", "metadata", "size", "x")


def _members(kind: Any) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _body(route: Route) -> st.SearchStrategy[bytes]:
    random = st.one_of(st.binary(max_size=40), _VALUES.map(_encode))
    if route.body is None:
        return random
    member_values: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(_members(route.body), _VALUES)
    if "config" in member_values:
        config = st.fixed_dictionaries(
            {"image": st.just("debian")},
            optional=dict.fromkeys(
                ("guest", "env", "restart", "files", "services", "init", "metadata", "size", "x"), _VALUES
            ),
        )
        member_values["config"] = st.one_of(config, _VALUES)
    typed = st.fixed_dictionaries({}, optional=member_values).map(_encode)
    return st.one_of(typed, random)


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(_without_surrogates(value))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 63:
        return float(value % (1 << 63))
    return value


def _query(route: Route) -> st.SearchStrategy[str]:
    names = _members(route.query.kind) if route.query is not None else []
    keys = st.sampled_from([*names, "metadata.x", "unknown"])
    pairs = st.lists(st.tuples(keys, _WORDS.map(_without_surrogates)), max_size=4).map(urlencode)
    return st.one_of(pairs, st.text("%&=;+.[]a1", max_size=20))


_ROUTES = [
    route
    for route in all_routes()
    if route.method != "WEBSOCKET" and route.path not in _LONG and not route.raw_body
]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Method, path with a placeholder for the machine's id, body."""
    route = draw(st.sampled_from(_ROUTES))
    path = route.path
    for name in route.names:
        known = {"app_name": "web", "machine_id": "MACHINE", "org_slug": "personal"}.get(name, "key")
        value = draw(st.one_of(st.just(known), st.just(known), _WORDS))
        path = path.replace("{" + name + "}", quote(_without_surrogates(value), safe="")).replace(
            "{" + name + "...}", quote(_without_surrogates(value), safe="/")
        )
    query = draw(_query(route))
    return route.method, f"{path}?{query}", draw(_body(route))


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(sequence=st.lists(requests(), min_size=1, max_size=REQUESTS_MAX))
def test_no_request_is_an_internal_error(
    sequence: list[tuple[str, str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    anyio.run(_play, sequence, tmp_path_factory.mktemp("fuzz"))


async def _play(sequence: list[tuple[str, str, bytes]], folder: Path) -> None:
    async with Central(folder / "central.db") as central, staged_host(folder / "host") as host:
        services = Services(central=central, host=host, region="local", metrics=Metrics(), upload_dir=folder)
        client = CheckedClient(services, await central.tokens.create("root"))
        await client.post("/v1/apps", json={"name": "web"})
        machine = (await client.post("/v1/apps/web/machines", json=IMAGE)).json()["id"]
        for method, url, body in sequence:
            answer = await client.http.request(method, url.replace("MACHINE", machine), content=body)
            assert answer.status_code != 500, f"{method} {url} {body!r}: {answer.text}"
            client.validate(answer)
        await client.aclose()
