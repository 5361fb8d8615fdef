"""Pulling: authentication, redirects, cut connections, lies, and what failures are called."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import msgspec
import pytest

from midge.errors import ImageInvalid, ImageNotFound, InvalidInput, RegistryUnavailable
from midge.images.auth import Credentials, find, parse_challenge, read_auth_file
from midge.images.download import FRUITLESS_TRIES, download
from midge.images.http import RegistryConfig, RegistryHttp
from midge.images.layers import LayerSpec
from midge.images.limits import ImageLimits
from midge.images.media import Platform, sha256
from midge.images.paths import StorePaths
from midge.images.progress import silent
from midge.images.reference import parse
from midge.images.registry import RegistryClient
from midge.testing.images import build_layout, host_architecture
from tests.e2e.tampering import tampering
from tests.unit.images.fake_registry import HOST, REFERENCE, REPOSITORY, FakeRegistry

pytestmark = pytest.mark.anyio

REF = parse(REFERENCE)
CONFIG = RegistryConfig(backoff_s=0.0, tries=2)


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    return FakeRegistry(
        build_layout(tmp_path / "layout", layers=[{"f": os.urandom(50_000)}, {"g": "x"}], tag="v1")
    )


@pytest.fixture
async def http(registry: FakeRegistry) -> AsyncIterator[RegistryHttp]:
    client = RegistryHttp(CONFIG, transport=registry)
    yield client
    await client.aclose()


@pytest.fixture
def paths(tmp_path: Path) -> StorePaths:
    found = StorePaths(tmp_path / "store")
    found.make()
    return found


def client(http: RegistryHttp) -> RegistryClient:
    return RegistryClient(http, Platform(os="linux", architecture=host_architecture()), ImageLimits())


def layer(registry: FakeRegistry) -> LayerSpec:
    digest = registry.layers[0]
    return LayerSpec(diff_id="", digest=digest, size_bytes=len(registry.blobs[digest]))


async def test_manifest_and_configuration_are_resolved(registry: FakeRegistry, http: RegistryHttp) -> None:
    image = await client(http).resolve(REF)
    assert image.digest == registry.manifest["digest"]
    assert [spec.digest for spec in image.layers] == registry.layers


async def test_index_leads_to_the_manifest_of_our_platform(
    registry: FakeRegistry, http: RegistryHttp
) -> None:
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [registry.manifest],
        }
    ).encode()
    registry.blobs[sha256(index)] = index
    registry.tags["v1"] = sha256(index)
    image = await client(http).resolve(REF)
    assert (image.digest, image.index_digest) == (registry.manifest["digest"], sha256(index))


async def test_index_that_contains_itself_ends(registry: FakeRegistry, http: RegistryHttp) -> None:
    data = b'{"schemaVersion": 2, "manifests": [{"digest": "sha256:%s", "size": 1}]}' % (b"a" * 64)
    registry.blobs["sha256:" + "a" * 64] = data
    registry.tags["v1"] = "sha256:" + "a" * 64
    with pytest.raises(ImageInvalid):
        await client(http).resolve(REF)


async def test_token_is_fetched_once_and_used_again(registry: FakeRegistry, http: RegistryHttp) -> None:
    registry.auth = "bearer"
    await client(http).resolve(REF)
    await client(http).resolve(REF)
    assert [request.url.host for request in registry.requests].count("auth.test") == 1


async def test_token_for_a_private_repository_needs_credentials(registry: FakeRegistry) -> None:
    registry.auth, registry.passwords = "bearer", {"ann": "secret"}
    config = RegistryConfig(backoff_s=0.0, credentials={HOST: Credentials("ann", "secret")})
    http = RegistryHttp(config, transport=registry)
    assert (await client(http).resolve(REF)).digest == registry.manifest["digest"]
    await http.aclose()


async def test_wrong_credentials_are_not_found(registry: FakeRegistry) -> None:
    registry.auth, registry.passwords = "bearer", {"ann": "secret"}
    http = RegistryHttp(CONFIG, transport=registry)
    with pytest.raises(ImageNotFound, match="denied"):
        await client(http).resolve(REF)
    await http.aclose()


async def test_basic_authentication_with_an_auth_file(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.auth, registry.passwords = "basic", {"ann": "sec:ret"}
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"auths": {f"https://{HOST}/v1/": {"auth": base64.b64encode(b"ann:sec:ret").decode()}}})
    )
    http = RegistryHttp(RegistryConfig(auth_file=file), transport=registry)
    assert (await client(http).resolve(REF)).digest == registry.manifest["digest"]
    await http.aclose()


async def test_token_endpoint_without_encryption_gets_no_request(
    registry: FakeRegistry, http: RegistryHttp
) -> None:
    registry.auth, registry.realm = "bearer", "http://auth.test/token"
    with pytest.raises(RegistryUnavailable, match="token endpoint"):
        await client(http).resolve(REF)
    assert {request.url.host for request in registry.requests} == {HOST}


async def test_redirect_to_storage_carries_no_credentials(
    registry: FakeRegistry, http: RegistryHttp, paths: StorePaths
) -> None:
    registry.auth, registry.storage = "bearer", "storage.test"
    path = await download(http, REF, layer(registry), paths, silent)
    assert path.read_bytes() == registry.blobs[registry.layers[0]]
    stored = [request for request in registry.requests if request.url.host == "storage.test"]
    assert stored
    assert all("authorization" not in request.headers for request in stored)


async def test_challenge_from_a_redirect_target_is_not_answered(
    http: RegistryHttp, registry: FakeRegistry
) -> None:
    async def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        if request.url.host == HOST:
            return httpx2.Response(307, headers={"Location": "https://evil.test/x"})
        return httpx2.Response(401, headers={"WWW-Authenticate": 'Bearer realm="https://evil.test/token"'})

    seen: list[httpx2.Request] = []
    config = RegistryConfig(tries=1, credentials={HOST: Credentials("ann", "secret")})
    hostile = RegistryHttp(config, transport=httpx2.MockTransport(handle))
    with pytest.raises(ImageNotFound):
        await client(hostile).resolve(REF)
    assert all("authorization" not in request.headers for request in seen)
    await hostile.aclose()


@pytest.mark.parametrize("target", ["http://storage.test/x", "file:///etc/passwd", "ftp://x/y"])
async def test_redirect_away_from_https_is_refused(target: str) -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(302, headers={"Location": target}))
    http = RegistryHttp(CONFIG, transport=transport)
    with pytest.raises(RegistryUnavailable, match="refused"):
        await client(http).resolve(REF)
    await http.aclose()


async def test_endless_redirects_end() -> None:
    transport = httpx2.MockTransport(
        lambda request: httpx2.Response(302, headers={"Location": str(request.url)})
    )
    http = RegistryHttp(CONFIG, transport=transport)
    with pytest.raises(RegistryUnavailable, match="redirects more than"):
        await client(http).resolve(REF)
    await http.aclose()


async def test_cut_download_goes_on_where_it_was_cut(
    registry: FakeRegistry, http: RegistryHttp, paths: StorePaths
) -> None:
    registry.cut_after, registry.cuts = 20_000, 2
    path = await download(http, REF, layer(registry), paths, silent)
    assert path.read_bytes() == registry.blobs[registry.layers[0]]
    asked = [request.headers.get("range") for request in registry.requests]
    assert asked == [None, "bytes=20000-", "bytes=40000-"]


async def test_server_that_ignores_ranges_is_read_from_the_start(
    registry: FakeRegistry, http: RegistryHttp, paths: StorePaths
) -> None:
    registry.cut_after, registry.cuts, registry.ranges = 20_000, 1, False
    path = await download(http, REF, layer(registry), paths, silent)
    assert path.read_bytes() == registry.blobs[registry.layers[0]]


async def test_download_is_resumed_by_the_next_process(
    registry: FakeRegistry, http: RegistryHttp, paths: StorePaths
) -> None:
    spec = layer(registry)
    paths.partial(spec.digest).write_bytes(registry.blobs[spec.digest][:30_000])
    await download(http, REF, spec, paths, silent)
    assert registry.requests[0].headers["range"] == "bytes=30000-"


async def test_damaged_leftover_is_downloaded_anew(
    registry: FakeRegistry, http: RegistryHttp, paths: StorePaths
) -> None:
    spec = layer(registry)
    paths.partial(spec.digest).write_bytes(bytes(30_000))
    path = await download(http, REF, spec, paths, silent)
    assert path.read_bytes() == registry.blobs[spec.digest]


async def test_complete_or_too_long_leftover_is_handled(
    registry: FakeRegistry, http: RegistryHttp, paths: StorePaths
) -> None:
    spec = layer(registry)
    paths.partial(spec.digest).write_bytes(registry.blobs[spec.digest])
    await download(http, REF, spec, paths, silent)
    assert registry.requests == []
    paths.blob(spec.digest).rename(paths.partial(spec.digest))
    with paths.partial(spec.digest).open("ab") as file:
        file.write(b"more")
    path = await download(http, REF, spec, paths, silent)
    assert path.read_bytes() == registry.blobs[spec.digest]


async def test_wrong_content_is_refused_and_not_kept(
    registry: FakeRegistry, http: RegistryHttp, paths: StorePaths
) -> None:
    spec = layer(registry)
    registry.blobs[spec.digest] = bytes(spec.size_bytes)
    with pytest.raises(ImageInvalid, match="does not match its digest"):
        await download(http, REF, spec, paths, silent)
    assert list(paths.blobs.iterdir()) == []


async def test_more_than_announced_is_refused(
    registry: FakeRegistry, http: RegistryHttp, paths: StorePaths
) -> None:
    spec = layer(registry)
    registry.blobs[spec.digest] += b"more"
    with pytest.raises(ImageInvalid, match="longer than its manifest says"):
        await download(http, REF, spec, paths, silent)


async def test_connection_that_brings_nothing_is_given_up(
    registry: FakeRegistry, http: RegistryHttp, paths: StorePaths
) -> None:
    registry.cut_after, registry.cuts = 0, 1000
    with pytest.raises(RegistryUnavailable, match="brought nothing"):
        await download(http, REF, layer(registry), paths, silent)
    assert len(registry.requests) == FRUITLESS_TRIES


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, ImageNotFound),
        (403, ImageNotFound),
        (429, RegistryUnavailable),
        (500, RegistryUnavailable),
        (503, RegistryUnavailable),
    ],
)
async def test_what_a_status_means(
    registry: FakeRegistry, http: RegistryHttp, status: int, kind: type[Exception]
) -> None:
    registry.status = status
    with pytest.raises(kind):
        await client(http).resolve(REF)
    assert len(registry.requests) == (1 if kind is ImageNotFound else 2)


@pytest.mark.parametrize(
    "error", [httpx2.ConnectError, httpx2.ReadTimeout, httpx2.ConnectTimeout, httpx2.RemoteProtocolError]
)
async def test_registry_that_is_down(error: type[httpx2.TransportError]) -> None:
    def handle(request: httpx2.Request) -> httpx2.Response:
        raise error("down")

    http = RegistryHttp(CONFIG, transport=httpx2.MockTransport(handle))
    with pytest.raises(RegistryUnavailable, match=HOST):
        await client(http).resolve(REF)
    await http.aclose()


async def test_a_refused_connection_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        registry = f"127.0.0.1:{taken.getsockname()[1]}"
        http = RegistryHttp(RegistryConfig(tries=1))
        with pytest.raises(
            RegistryUnavailable, match=f"^cannot talk to registry {registry}: connection refused$"
        ):
            await client(http).resolve(parse(f"{registry}/app:1"))
        await http.aclose()


async def test_manifest_that_is_not_what_the_header_says(registry: FakeRegistry, http: RegistryHttp) -> None:
    registry.blobs[registry.manifest["digest"]] += b" "
    with pytest.raises(ImageInvalid, match="does not match its digest"):
        await client(http).resolve(REF)


async def test_unknown_repository(http: RegistryHttp) -> None:
    with pytest.raises(ImageNotFound):
        await client(http).resolve(parse(f"{HOST}/other:v1"))


@pytest.mark.parametrize(
    ("registry_name", "scheme"),
    [
        ("127.0.0.1:5000", "http"),
        ("localhost:5000", "http"),
        ("[::1]:5000", "http"),
        ("lab:5000", "http"),
        ("ghcr.io", "https"),
        ("127.0.0.1.evil.test", "https"),
        ("10.0.0.1:5000", "https"),
    ],
)
def test_plain_http_only_for_loopback_and_where_allowed(registry_name: str, scheme: str) -> None:
    http = RegistryHttp(RegistryConfig(insecure=frozenset({"lab:5000"})))
    assert http.base(registry_name) == f"{scheme}://{registry_name}"


async def test_a_registry_on_this_host_is_not_looked_for_behind_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:3128")
    monkeypatch.setenv("no_proxy", "")
    with tampering(build_layout(tmp_path / "layout", layers=[{"f": "x"}], tag="t")) as local:
        http = RegistryHttp(msgspec.structs.replace(CONFIG, connect_timeout_s=5.0))
        resolved = await client(http).resolve(parse(local.reference()))
        await http.aclose()
    assert resolved.digest == local.manifest_digest


def test_challenges() -> None:
    header = r'Bearer realm="https://a/b?c=\"d\"",service=plain, scope="repository:x:pull,push"'
    challenge = parse_challenge(header)
    assert challenge is not None
    assert challenge.parameters == {
        "realm": 'https://a/b?c="d"',
        "service": "plain",
        "scope": "repository:x:pull,push",
    }
    assert parse_challenge("Negotiate abc") is None
    assert parse_challenge("") is None


def test_docker_hub_credentials_by_any_of_its_names(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"auths": {"https://index.docker.io/v1/": {"username": "u", "password": "p"}}})
    )
    assert find("registry-1.docker.io", read_auth_file(file)) == Credentials("u", "p")
    assert find("ghcr.io", read_auth_file(file)) is None


def test_missing_auth_file_means_no_credentials_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    assert read_auth_file(tmp_path / "none") == {}
    (tmp_path / "bad").write_text('{"auths": {"a": {"auth": "%%%"}}}')
    with pytest.raises(InvalidInput, match="damaged"):
        read_auth_file(tmp_path / "bad")


def test_password_is_not_shown() -> None:
    assert "secret" not in repr(Credentials("ann", "secret"))
    assert REPOSITORY in REFERENCE
