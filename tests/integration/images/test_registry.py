"""Pulling from a real registry what skopeo put there."""

from __future__ import annotations

from pathlib import Path

import pytest

from midge.errors import ImageNotFound, RegistryUnavailable
from midge.images.http import RegistryConfig
from midge.images.store import ImageStore
from midge.testing.images import build_docker_archive, build_layout, busybox_files, busybox_web_image
from tests.integration.images.conftest import needs, push, run
from tests.loopback import deaf_port

pytestmark = [pytest.mark.anyio, pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize(
    "options", [[], ["--format=v2s2"], ["--dest-compress-format=zstd", "--dest-compress"]]
)
async def test_image_is_pulled_in_every_format(registry: str, tmp_path: Path, options: list[str]) -> None:
    needs("busybox")
    reference = f"{registry}/midge/hello:f{len(options)}{'z' if '--dest-compress' in options else ''}"
    push(busybox_web_image(tmp_path / "hello"), reference, *options)
    async with ImageStore(tmp_path / "store") as store:
        image = await store.ensure(reference)
        assert image.config.cmd == ["httpd", "-f", "-p", "8080", "-h", "/www"]
        dirs = await store.layer_dirs(image.digest)
        assert (dirs[0] / "www/index.html").exists()
        assert (dirs[1] / "bin/busybox").stat().st_mode & 0o777 == 0o755
        assert (await store.ensure(f"{registry}/midge/hello@{image.digest}")).digest == image.digest


async def test_unknown_image_and_registry(registry: str, tmp_path: Path) -> None:
    config = RegistryConfig(tries=2, backoff_s=0.01, connect_timeout_s=2)
    async with ImageStore(tmp_path / "store", registry=config) as store:
        with pytest.raises(ImageNotFound):
            await store.ensure(f"{registry}/no/such:image")
        with deaf_port() as port, pytest.raises(RegistryUnavailable):
            await store.ensure(f"127.0.0.1:{port}/no/such:image")


async def test_archives_of_skopeo_in_both_forms(registry: str, tmp_path: Path) -> None:
    needs("busybox", "skopeo")
    build_layout(tmp_path / "x", layers=[busybox_files()], tag="t", cmd=["/bin/sh"])
    for kind, name in (("docker-archive", "a.tar"), ("oci-archive", "b.tar")):
        target = f"{kind}:{tmp_path}/{name}:example.com/x/y:{kind}"
        await run("skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{tmp_path}/x", target)
    async with ImageStore(tmp_path / "store") as store:
        for kind, name in (("docker-archive", "a.tar"), ("oci-archive", "b.tar")):
            [image] = await store.import_path(tmp_path / name)
            assert image.reference == f"example.com/x/y:{kind}"
            assert image.config.cmd == ["/bin/sh"]


async def test_docker_archive_of_ours_is_understood_by_skopeo(registry: str, tmp_path: Path) -> None:
    archive = build_docker_archive(tmp_path / "a.tar", layers=[{"f": "x"}, {"g": "y"}], tag="x/y:1")
    push(tmp_path, f"{registry}/from/archive:1", source=f"docker-archive:{archive}")
    async with ImageStore(tmp_path / "store") as store:
        pulled = await store.ensure(f"{registry}/from/archive:1")
        [imported] = await store.import_path(archive)
        assert pulled.diff_ids == imported.diff_ids
