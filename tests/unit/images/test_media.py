"""Manifests: decoding and choosing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from midge.errors import ImageInvalid
from midge.images.limits import ImageLimits
from midge.images.media import (
    ConfigDocument,
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose,
    decode,
    decode_manifest,
    runs_on,
)

LIMITS = ImageLimits()
AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")
OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker.distribution"


def digest(n: int) -> str:
    return f"sha256:{n:064x}"


def entry(n: int, os: str = "linux", arch: str = "amd64", variant: str = "", **more: Any) -> Descriptor:
    platform = Platform(os=os, architecture=arch, variant=variant)
    return Descriptor(digest=digest(n), size=1, platform=platform, **more)


def manifest(layer_type: str = f"{OCI}.layer.v1.tar+gzip", **changes: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": f"{OCI}.config.v1+json", "digest": digest(1), "size": 2},
        "layers": [{"mediaType": layer_type, "digest": digest(2), "size": 3}],
    }
    return json.dumps(document | changes).encode()


def test_right_platform_is_chosen() -> None:
    index = Index(manifests=[entry(1, arch="arm64", variant="v8"), entry(2), entry(3, os="windows")])
    assert choose(index, AMD64).digest == digest(2)
    assert choose(index, ARM64).digest == digest(1)


def test_highest_variant_that_runs_is_chosen() -> None:
    index = Index(
        manifests=[entry(1), entry(2, variant="v2"), entry(3, variant="v3"), entry(4, variant="v9")]
    )
    assert choose(index, AMD64).digest == digest(1)
    assert choose(index, Platform(os="linux", architecture="amd64", variant="v3")).digest == digest(3)


def test_unknown_variant_is_not_chosen() -> None:
    with pytest.raises(ImageInvalid):
        choose(Index(manifests=[entry(1, variant="strange")]), AMD64)


def test_attestations_are_not_images() -> None:
    attestation = entry(1, annotations={"vnd.docker.reference.type": "attestation-manifest"})
    assert choose(Index(manifests=[attestation, entry(2)]), AMD64).digest == digest(2)


def test_entry_without_platform_is_the_last_resort() -> None:
    silent = Descriptor(digest=digest(9), size=1)
    assert choose(Index(manifests=[silent, entry(1)]), AMD64).digest == digest(1)
    assert choose(Index(manifests=[silent]), AMD64).digest == digest(9)


def test_missing_platform_is_explained() -> None:
    with pytest.raises(ImageInvalid, match="not for linux/amd64") as caught:
        choose(Index(manifests=[entry(1, arch="s390x")]), AMD64)
    assert "linux/s390x" in caught.value.hint


@pytest.mark.parametrize("media_type", [f"{OCI}.manifest.v1+json", f"{DOCKER}.manifest.v2+json", ""])
def test_manifest_of_both_formats(media_type: str) -> None:
    assert isinstance(decode_manifest(manifest(), media_type, LIMITS), Manifest)


@pytest.mark.parametrize("media_type", [f"{OCI}.index.v1+json", f"{DOCKER}.manifest.list.v2+json", ""])
def test_index_of_both_formats(media_type: str) -> None:
    data = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    assert isinstance(decode_manifest(data, media_type, LIMITS), Index)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b"{}", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"schemaVersion": 1}', "schema 1"),
        (manifest("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "may not be distributed"),
        (manifest(f"{OCI}.layer.nondistributable.v1.tar"), "may not be distributed"),
        (manifest("application/x-rar"), "unknown type"),
        (
            manifest(
                config={
                    "mediaType": "application/vnd.cncf.helm.config.v1+json",
                    "digest": digest(1),
                    "size": 1,
                }
            ),
            "no container image",
        ),
        (manifest(config={"digest": "sha256:../../x", "size": 1}), "not a sha256 digest"),
        (manifest(config={"digest": digest(1), "size": -1}), "negative"),
        (manifest(config={"digest": digest(1), "size": 1 << 40}), "config_bytes"),
        (
            manifest(layers=[{"mediaType": f"{OCI}.layer.v1.tar", "digest": digest(1), "size": 1 << 50}]),
            "compressed_layer_bytes",
        ),
        (
            manifest(layers=[{"mediaType": f"{OCI}.layer.v1.tar", "digest": digest(1), "size": 1}] * 200),
            "limit layers",
        ),
        (b" " * (5 << 20), "manifest_bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_manifests_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageInvalid, match=message):
        decode_manifest(data, f"{OCI}.manifest.v1+json", LIMITS)


def test_configuration_with_nulls() -> None:
    data = (
        b'{"rootfs": {"diff_ids": []}, "config": {"Env": null, "Cmd": ["a"], "ExposedPorts": {"80/tcp": {}}}}'
    )
    run = decode(data, ConfigDocument, "x").run()
    assert (run.env, run.cmd, run.exposed_ports) == ([], ["a"], ["80/tcp"])


def test_configuration_for_another_architecture() -> None:
    document = decode(
        b'{"rootfs": {"diff_ids": []}, "architecture": "arm64", "os": "linux"}', ConfigDocument, "x"
    )
    assert runs_on(document, ARM64)
    assert not runs_on(document, AMD64)
