"""Images that are not there, damaged or hostile: refused with a clear message, and nothing stays behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from midge.testing.images import Entry, build_layout, directory, hardlink, symlink
from tests.e2e.serve import STOP_TIMEOUT_S, App, Serve, until
from tests.e2e.tampering import TamperingRegistry, tampering
from tests.loopback import deaf_port

pytestmark = [pytest.mark.slow, pytest.mark.root]

BOMB_BYTES = 320 << 20  # of zeros; beyond the size from which the compression ratio counts


@pytest.fixture
def app(mock: Serve, new_app: Callable[[Serve], App]) -> App:
    return new_app(mock)


@pytest.fixture(autouse=True)
def nothing_half_made(mock: Serve) -> Any:
    """Whatever the test did: the server lives, and keeps no image, no file and no machine of it.

    What was fetched of a layer before its registry failed stays, so that the next pull goes on there; a prune takes it.
    """
    before, images = mock.state(), mock.call("GET", "/v1/images")
    yield
    assert mock.call("GET", "/readyz")["ready"] is True
    assert mock.call("GET", "/v1/images") == images
    until(lambda: mock.state().file == before.file, STOP_TIMEOUT_S)
    mock.call("POST", "/v1/images/prune")
    assert list((mock.data_dir / "images" / "blobs" / "sha256").glob("*.partial")) == []


def why_not(app: App, reference: str) -> str:
    """What somebody is told who runs this image: by the API where it knows at once, else by the machine's event."""
    done = app.run(reference, "true", options=("--wait-timeout", "60s"))
    assert done.returncode == 125, done.stdout + done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert app.serve.call("GET", app.path) == []
    return str(done.stderr)


def test_an_image_the_registry_does_not_have(app: App, registry: str) -> None:
    reference = f"{registry}/no/such:image"
    answer = app.refused({"image": reference}, 404)
    assert answer["code"] == "image_not_found"
    assert reference in answer["error"]
    assert reference in why_not(app, reference)
    done = app.serve.midge("image", "pull", reference)
    assert done.returncode == 3
    assert reference in done.stderr


def test_a_tag_the_repository_does_not_have(app: App, hello_url: str) -> None:
    reference = hello_url.replace(":latest", ":no-such-tag")
    assert reference in app.refused({"image": reference}, 404)["error"]


def test_a_registry_that_is_down(app: App) -> None:
    with deaf_port() as port:
        address = f"127.0.0.1:{port}"
        answer = app.refused({"image": f"{address}/some/image:1"}, 503)
        assert answer["code"] == "registry_unavailable"
        assert address in answer["error"]
        assert address in why_not(app, f"{address}/some/image:1")


def test_a_name_that_is_none(app: App) -> None:
    answer = app.refused({"image": "UPPER CASE::"}, 400)
    assert "UPPER CASE::" in answer["error"]


@pytest.fixture
def bad(tmp_path: Path) -> Any:
    layout = build_layout(
        tmp_path / "layout", layers=[{"f": bytes(range(256)) * 4000}], tag="t", compression="none"
    )
    with tampering(layout) as registry:
        yield registry


def test_a_layer_with_other_bytes_than_its_digest_says(app: App, bad: TamperingRegistry) -> None:
    layer = bytearray(bad.blob(bad.layers[0]))
    layer[600] ^= 1
    bad.replaced[bad.layers[0]] = bytes(layer)
    told = why_not(app, bad.reference())
    assert "digest" in told
    assert bad.layers[0][:19] in told
    bad.replaced.clear()
    app.serve.ok("image", "pull", bad.reference())
    app.serve.ok("image", "rm", bad.reference())


def test_a_manifest_with_other_bytes_than_its_digest_says(app: App, bad: TamperingRegistry) -> None:
    bad.replaced[bad.manifest_digest] = bad.blob(bad.manifest_digest).replace(b'"size":', b'"size" :', 1)
    answer = app.refused({"image": bad.reference(f"bad/image@{bad.manifest_digest}")}, 400)
    assert answer["code"] == "image_invalid"
    assert "digest" in answer["error"]


@pytest.mark.parametrize("announced", ["all", "half"])
def test_a_layer_that_ends_too_soon(app: App, bad: TamperingRegistry, announced: str) -> None:
    (digest,) = bad.layers
    if announced == "all":
        bad.cut[digest] = 300_000
    else:
        bad.replaced[digest] = bad.blob(digest)[:300_000]
    told = why_not(app, bad.reference())
    assert digest[:19] in told
    assert bad.requests < 40


HOSTILE: dict[str, dict[str, bytes | str | Entry]] = {
    "dot dot": {"../../escaped": "owned"},
    "through a link to nowhere": {"x": symlink("/nowhere-at-all"), "x/escaped": "owned"},
    "magic link": {"x": symlink("/proc/self/root"), "x/tmp/escaped": "owned"},
    "hard link to outside": {"x": hardlink("/etc/shadow"), "y": hardlink("../../../../../../etc/shadow")},
    "disk device": {"disk": Entry(kind="block", device=(254, 0), mode=0o666)},
    "memory device": {"mem": Entry(kind="char", device=(1, 1), mode=0o666)},
    "overlay attribute": {"d": directory(xattrs={"trusted.overlay.redirect": b"/etc"})},
    "deep": {"/".join(["d"] * 500): "x"},
    "zip bomb": {"zeros": bytes(BOMB_BYTES)},
}


@pytest.mark.parametrize("trick", list(HOSTILE))
def test_a_hostile_layer_is_refused(mock: Serve, tmp_path: Path, trick: str) -> None:
    layout = build_layout(tmp_path / "layout", layers=[HOSTILE[trick]], tag="bad/hostile:1")
    done = mock.midge("image", "import", str(layout))
    assert done.returncode == 2, done.stderr
    assert "error: cannot import" in done.stderr
    assert "Traceback" not in done.stderr
    shown = mock.midge("image", "import", str(layout), "--json")
    assert json.loads(shown.stderr.splitlines()[-1])["error"]["code"] == "image_invalid"
    escaped = [
        path for path in (Path("/escaped"), Path("/tmp/escaped"), mock.base / "escaped") if path.exists()
    ]
    assert not escaped


def test_a_device_below_dev_is_left_out_and_the_image_works(mock: Serve, tmp_path: Path, box: Path) -> None:
    layers: list[Any] = [{"dev": directory(), "dev/sda": Entry(kind="block", device=(8, 0), mode=0o666)}]
    layout = build_layout(tmp_path / "layout", layers=layers, tag="odd/device:1")
    mock.ok("image", "import", str(layout))
    mock.ok("image", "rm", "odd/device:1")


@pytest.mark.parametrize("damage", ["no archive", "empty", "cut"])
def test_an_archive_that_is_none(mock: Serve, tmp_path: Path, box: Path, damage: str) -> None:
    import tarfile

    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(box, arcname=".")
    whole = archive.read_bytes()
    archive.write_bytes({"no archive": b"no archive", "empty": b"", "cut": whole[: len(whole) // 2]}[damage])
    done = mock.midge("image", "import", str(archive))
    assert done.returncode == 2, done.stderr
    assert "error: cannot import" in done.stderr
    assert "Traceback" not in done.stderr
