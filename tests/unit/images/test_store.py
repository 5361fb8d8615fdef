"""The store as its users see it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from midge.errors import Conflict, ImageInvalid, ImageNotFound, InvalidInput, OutOfSpace, RegistryUnavailable
from midge.images import fs
from midge.images.http import RegistryConfig, RegistryHttp
from midge.images.limits import DEFAULT_LIMITS, RESERVED_FREE_BYTES
from midge.images.progress import ProgressEvent
from midge.images.store import ImageStore
from midge.testing.images import Layer, build_docker_archive, build_layout, directory, host_architecture
from tests.deadlines import PATIENCE_S
from tests.unit.images.fake_registry import REFERENCE, FakeRegistry

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root"),
]

LAYERS: list[Layer] = [
    {"etc": directory(), "etc/a": "1", "etc/b": "2"},
    {"etc": directory(), "etc/.wh.a": "", "etc/b": "3"},
]


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    return FakeRegistry(build_layout(tmp_path / "remote", layers=LAYERS, cmd=["run"], tag="v1"))


def new_store(root: Path, registry: FakeRegistry | None = None) -> ImageStore:
    http = RegistryHttp(RegistryConfig(backoff_s=0.0, tries=2), transport=registry)
    return ImageStore(root, http=http)


@pytest.fixture
async def store(tmp_path: Path, registry: FakeRegistry) -> AsyncIterator[ImageStore]:
    async with new_store(tmp_path / "store", registry) as opened:
        yield opened


async def until(condition: Callable[[], bool]) -> None:
    """Lets the others run until something is true."""
    async with asyncio.timeout(PATIENCE_S):
        for _ in iter(condition, True):
            await asyncio.sleep(0)


def leftovers(root: Path) -> list[str]:
    return [path.name for path in (root / "tmp").iterdir()]


async def test_constructor_touches_nothing(tmp_path: Path) -> None:
    ImageStore(tmp_path / "never")
    assert not (tmp_path / "never").exists()


async def test_pulled_image_is_complete_and_then_local(store: ImageStore, registry: FakeRegistry) -> None:
    image = await store.ensure(REFERENCE)
    asked = len(registry.requests)
    assert await store.ensure(REFERENCE) == image
    assert len(registry.requests) == asked
    assert image.config.cmd == ["run"]
    assert image.reference == REFERENCE
    assert image.architecture == host_architecture()
    assert [path.name for path in (await store.layer_dirs(image.digest))[0].iterdir()] == ["etc"]


async def test_image_is_found_by_its_digests(store: ImageStore, registry: FakeRegistry) -> None:
    image = await store.ensure(REFERENCE)
    assert store.get(image.digest).digest == image.digest
    assert (await store.ensure(f"registry.test/team/app@{image.digest}")).digest == image.digest
    assert (await store.ensure(image.digest)).digest == image.digest
    with pytest.raises(ImageNotFound):
        store.get("sha256:" + "0" * 64)


async def test_pull_follows_a_tag_that_moved(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path
) -> None:
    old = await store.ensure(REFERENCE)
    newer = FakeRegistry(build_layout(tmp_path / "newer", layers=[*LAYERS, {"new": "x"}], tag="v1"))
    registry.blobs |= newer.blobs
    registry.tags["v1"] = newer.manifest["digest"]
    assert (await store.ensure(REFERENCE)).digest == old.digest
    assert (await store.pull(REFERENCE)).digest == newer.manifest["digest"]
    assert (await store.ensure(REFERENCE)).digest == newer.manifest["digest"]
    assert not any(registry.blob_requests[digest] > 1 for digest in registry.layers)


async def test_twenty_at_once_download_once(store: ImageStore, registry: FakeRegistry) -> None:
    images = await asyncio.gather(*(store.ensure(REFERENCE) for _ in range(20)))
    assert len({image.digest for image in images}) == 1
    assert set(registry.blob_requests.values()) == {1}


async def test_error_reaches_everybody_and_the_next_try_is_fresh(
    store: ImageStore, registry: FakeRegistry
) -> None:
    registry.status = 500
    results = await asyncio.gather(*(store.ensure(REFERENCE) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, RegistryUnavailable) for result in results)
    registry.status = 0
    await store.ensure(REFERENCE)


async def test_cancelled_waiter_does_not_disturb_the_others(
    store: ImageStore, registry: FakeRegistry
) -> None:
    first = asyncio.create_task(store.ensure(REFERENCE))
    second = asyncio.create_task(store.ensure(REFERENCE))
    await until(lambda: bool(registry.requests))
    first.cancel()
    assert (await second).digest == registry.manifest["digest"]
    assert first.cancelled()


async def test_when_the_last_waiter_leaves_the_work_ends(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path
) -> None:
    task = asyncio.create_task(store.ensure(REFERENCE))
    await until(lambda: bool(registry.blob_requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert leftovers(tmp_path / "store") == []
    await store.ensure(REFERENCE)


async def test_hostile_layer_leaves_nothing(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path
) -> None:
    bad = FakeRegistry(build_layout(tmp_path / "bad", layers=[{"../x": "owned"}], tag="v1"))
    registry.blobs, registry.tags = bad.blobs, bad.tags
    with pytest.raises(ImageInvalid):
        await store.ensure(REFERENCE)
    assert leftovers(tmp_path / "store") == []
    assert list((tmp_path / "store/blobs/sha256").iterdir()) == []
    assert store.list() == []


async def test_progress_is_told_to_all_who_wait(store: ImageStore) -> None:
    heard: list[list[ProgressEvent]] = [[], []]
    await asyncio.gather(*(store.ensure(REFERENCE, progress=events.append) for events in heard))
    for events in heard:
        phases = [event.phase for event in events]
        assert phases[0] == "resolving"
        assert phases[-1] == "done"
        assert {"downloading", "unpacking"} <= set(phases)


@pytest.mark.parametrize("form", ["layout", "archive.tar", "archive.tar.gz"])
async def test_import_keeps_the_name_and_content(store: ImageStore, tmp_path: Path, form: str) -> None:
    build = build_layout if form == "layout" else build_docker_archive
    [image] = await store.import_path(
        build(tmp_path / form, layers=LAYERS, tag="midge/hello:latest", env=["A=b"])
    )
    assert await store.ensure("midge/hello") == image
    assert (image.repository, image.tag, image.config.env) == ("midge/hello", "latest", ["A=b"])
    assert leftovers(tmp_path / "store") == []


async def test_import_under_another_name(store: ImageStore, tmp_path: Path) -> None:
    [image] = await store.import_path(build_layout(tmp_path / "x", layers=LAYERS, tag="old"), tag="hello")
    assert (await store.ensure("hello")).digest == image.digest
    assert store.list()[0].references == ["hello:latest"]


async def test_import_without_a_name(store: ImageStore, tmp_path: Path) -> None:
    [image] = await store.import_path(build_layout(tmp_path / "x", layers=LAYERS))
    assert store.list()[0].references == []
    assert (await store.ensure(image.digest)).digest == image.digest


async def test_bare_tag_of_a_layout_gets_its_name(store: ImageStore, tmp_path: Path) -> None:
    await store.import_path(build_layout(tmp_path / "My App", layers=LAYERS, tag="1.0"))
    assert store.list()[0].references == ["my-app:1.0"]


async def test_several_images_in_one_layout(store: ImageStore, tmp_path: Path) -> None:
    build_layout(tmp_path / "x", layers=LAYERS, tag="a:1")
    build_layout(tmp_path / "x", layers=LAYERS, tag="a:also")
    build_layout(tmp_path / "x", layers=LAYERS[:1], tag="b:1")
    images = await store.import_path(tmp_path / "x")
    assert [summary.references for summary in store.list()] == [["a:1", "a:also"], ["b:1"]]
    assert len(images) == 2
    with pytest.raises(InvalidInput, match="one tag cannot name them"):
        await store.import_path(tmp_path / "x", tag="c")


@pytest.mark.parametrize("content", [b"", b"short: text\n", b"nonsense" * 100, bytes(2048)])
async def test_file_that_is_no_image(store: ImageStore, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ImageInvalid, match=r"^it is neither an OCI image layout nor a docker save archive$"):
        await store.import_path(tmp_path / "x.tar")
    with pytest.raises(InvalidInput):
        await store.import_path(tmp_path / "missing.tar")


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "link.json", "pipe"])
async def test_documents_of_a_layout_cannot_name_other_files(
    store: ImageStore, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "x"
    root.mkdir()
    (tmp_path / "secret.json").write_text('{"rootfs": {"diff_ids": []}}')
    (root / "link.json").symlink_to("../secret.json")
    os.mkfifo(root / "pipe")
    (root / "manifest.json").write_text(json.dumps([{"Config": name, "Layers": []}]))
    with pytest.raises(ImageInvalid):
        await store.import_path(root)


async def test_everything_is_there_after_reopening(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path
) -> None:
    image = await store.ensure(REFERENCE)
    await store.aclose()
    async with new_store(tmp_path / "store") as again:
        assert await again.ensure(REFERENCE) == image


async def test_leftovers_of_a_crash_are_removed_at_opening(tmp_path: Path) -> None:
    root = tmp_path / "store"
    (root / "tmp/layer-1/fs/deep").mkdir(parents=True)
    (root / "tmp/x.json").write_text("half")
    (root / "images").mkdir()
    (root / "images/bad.json").write_text("{")
    (root / "tags.json").write_text("[")
    async with new_store(root) as store:
        assert store.list() == []
        assert leftovers(root) == []


async def test_second_opener_is_refused(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = new_store(tmp_path / "store")
    with pytest.raises(Conflict, match="another process"):
        await other._lock.acquire(timeout_s=0.05)


async def test_remove_by_name_and_digest(store: ImageStore, tmp_path: Path) -> None:
    [image] = await store.import_path(build_layout(tmp_path / "x", layers=LAYERS, tag="a:1"))
    await store.import_path(tmp_path / "x", tag="b:1")
    report = await store.remove("a:1", in_use=[image.digest])
    assert (report.deleted, len(report.untagged)) == ([], 1)
    with pytest.raises(Conflict, match="in use"):
        await store.remove("b:1", in_use=[image.digest])
    report = await store.remove("b:1", in_use=[])
    assert report.deleted == [image.digest]
    assert report.freed_bytes > 0
    assert store.list() == []
    assert list((tmp_path / "store/layers").iterdir()) == []
    with pytest.raises(ImageNotFound):
        await store.remove("b:1", in_use=[])


async def test_prune_keeps_what_is_named_used_or_shared(store: ImageStore, tmp_path: Path) -> None:
    [named] = await store.import_path(build_layout(tmp_path / "a", layers=LAYERS[:1], tag="a:1"))
    [used] = await store.import_path(build_layout(tmp_path / "b", layers=LAYERS))
    [unused] = await store.import_path(build_layout(tmp_path / "c", layers=[LAYERS[0], {"c": "x"}]))
    report = await store.prune(in_use=[used.digest])
    assert report.deleted == [unused.digest]
    assert (report.layers, report.blobs) == (1, 2)
    assert len(list((tmp_path / "store/layers").iterdir())) == 2
    report = await store.prune(in_use=[used.digest], keep_tagged=False)
    assert report.deleted == [named.digest]
    assert all(path.is_dir() for path in await store.layer_dirs(used.digest))
    await store.prune(in_use=[])
    assert [list((tmp_path / "store" / name).iterdir()) for name in ("layers", "l", "images")] == [[], [], []]


async def test_prune_during_a_pull_keeps_its_layers(store: ImageStore, registry: FakeRegistry) -> None:
    task = asyncio.create_task(store.ensure(REFERENCE))
    await until(lambda: bool(registry.blob_requests))
    while not task.done():
        await store.prune(in_use=[], keep_tagged=True)
    image = await task
    assert all(path.is_dir() for path in await store.layer_dirs(image.digest))


async def test_lost_layer_is_fetched_again(store: ImageStore, tmp_path: Path) -> None:
    image = await store.ensure(REFERENCE)
    fs.remove_tree(tmp_path / "store/layers" / image.diff_ids[0].removeprefix("sha256:"))
    await store.ensure(REFERENCE)
    assert all(path.is_dir() for path in await store.layer_dirs(image.digest))


async def test_image_too_large_for_the_disk_is_refused_beforehand(
    store: ImageStore, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fs, "free_bytes", lambda path: RESERVED_FREE_BYTES + 10)
    with pytest.raises(
        OutOfSpace, match=r"needs about .* has 256 MiB free, of which 256 MiB are kept in res"
    ):
        await store.ensure(REFERENCE)
    assert not any(digest in registry.blob_requests for digest in registry.layers)


async def test_unpacked_size_of_all_layers_is_limited(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(DEFAULT_LIMITS, unpacked_image_bytes=15_000)
    async with ImageStore(tmp_path / "store", limits=limits) as store:
        with pytest.raises(ImageInvalid, match="unpacked_image_bytes"):
            await store.import_path(build_layout(tmp_path / "x", layers=LAYERS))


async def test_directories_not_listed_by_an_upper_layer_keep_the_lower_ones_mode(
    store: ImageStore, tmp_path: Path
) -> None:
    layers: list[Layer] = [{"tmp": directory(0o1777, uid=5)}, {"tmp/f": "x"}]
    [image] = await store.import_path(build_layout(tmp_path / "x", layers=layers))
    [merged] = await store.layer_dirs(image.digest)
    info = (merged / "tmp").stat()
    assert (info.st_mode & 0o7777, info.st_uid, (merged / "tmp/f").read_text()) == (0o1777, 5, "x")
    assert await store.layer_dirs(image.digest) == [merged]


async def test_more_layers_than_mount_options_take_are_merged(store: ImageStore, tmp_path: Path) -> None:
    layers: list[Layer] = [{f"f{n}": str(n)} for n in range(60)]
    [image] = await store.import_path(build_layout(tmp_path / "x", layers=layers))
    dirs = await store.layer_dirs(image.digest)
    assert sum(len(str(path)) + 1 for path in dirs) < 4096 - 512
    assert len(list(dirs[0].iterdir())) == 60


async def test_layer_used_twice_appears_once(store: ImageStore, tmp_path: Path) -> None:
    layer: Layer = {"a": "1"}
    [image] = await store.import_path(build_layout(tmp_path / "x", layers=[layer, {"b": "2"}, layer]))
    dirs = await store.layer_dirs(image.digest)
    assert [sorted(path.name for path in one.iterdir()) for one in dirs] == [["a"], ["b"]]


async def test_opaque_root_hides_lower_layers(store: ImageStore, tmp_path: Path) -> None:
    [image] = await store.import_path(
        build_layout(tmp_path / "x", layers=[{"a": "1"}, {".wh..wh..opq": "", "b": "2"}])
    )
    [only] = await store.layer_dirs(image.digest)
    assert [path.name for path in only.iterdir()] == ["b"]
