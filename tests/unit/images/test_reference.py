"""Image references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midge.errors import InvalidInput
from midge.images.reference import ImageRef, parse

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("busybox", "registry-1.docker.io", "library/busybox", "latest", ""),
        ("debian:12", "registry-1.docker.io", "library/debian", "12", ""),
        ("docker.io/debian:12", "registry-1.docker.io", "library/debian", "12", ""),
        ("index.docker.io/library/debian", "registry-1.docker.io", "library/debian", "latest", ""),
        ("midge/hello", "registry-1.docker.io", "midge/hello", "latest", ""),
        ("127.0.0.1:5000/x/y:tag", "127.0.0.1:5000", "x/y", "tag", ""),
        ("[::1]:5000/x", "[::1]:5000", "x", "latest", ""),
        ("localhost/x", "localhost", "x", "latest", ""),
        ("ghcr.io/o/app@" + DIGEST, "ghcr.io", "o/app", "", DIGEST),
        ("ghcr.io/o/app:v1@" + DIGEST, "ghcr.io", "o/app", "v1", DIGEST),
        ("a__b/c.d-e/f--g", "registry-1.docker.io", "a__b/c.d-e/f--g", "latest", ""),
        ("registry.fly.io/app:deployment-01J", "registry.fly.io", "app", "deployment-01J", ""),
    ],
)
def test_parts(text: str, registry: str, repository: str, tag: str, digest: str) -> None:
    ref = parse(text)
    assert ref == ImageRef(registry=registry, repository=repository, tag=tag, digest=digest)
    assert parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Debian",
        "a b",
        "a//b",
        "/a",
        "a/",
        ":tag",
        "a:",
        "a:b:c",
        "a:-tag",
        "a@sha256:12",
        "a@md5:" + "0" * 32,
        "a@" + DIGEST.upper(),
        "../../etc/passwd",
        "a.b:99999999/x",
        "http://a.b/x",
        "a\n",
        "a:t\n",
        "x" * 256,
        "x" * 600,
        "user@host/x",
        "ex ample.com/x",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not an image reference"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("busybox", "busybox:latest"),
        ("library/busybox:1", "busybox:1"),
        ("midge/hello", "midge/hello:latest"),
        ("a.b/c", "a.b/c:latest"),
    ],
)
def test_familiar_form(text: str, familiar: str) -> None:
    assert parse(text).familiar == familiar
    assert parse(familiar) == parse(text)


@given(st.text(alphabet="abz019.:/@-_[]ALs", max_size=80))
def test_whatever_parses_has_a_canonical_form_that_parses_to_the_same(text: str) -> None:
    try:
        ref = parse(text)
    except InvalidInput:
        return
    assert parse(str(ref)) == ref
    assert parse(ref.familiar) == ref
