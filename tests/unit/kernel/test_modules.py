from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from midge.errors import InvalidInput
from midge.kernel import modules
from tests.unit.kernel import fakes


def test_what_a_module_needs_comes_before_it() -> None:
    needs = {
        "virtio": ["virtio_ring"],
        "virtio_ring": [],
        "virtio_net": ["virtio_ring", "virtio", "net_failover"],
        "net_failover": ["failover"],
        "failover": [],
    }
    assert modules.load_order(["virtio_net", "virtio"], needs) == [
        "virtio_ring",
        "virtio",
        "failover",
        "net_failover",
        "virtio_net",
    ]


def test_what_is_built_in_is_left_out() -> None:
    assert modules.load_order(["ext4", "erofs"], {"erofs": ["libcrc32c"]}) == ["erofs"]


def test_dashes_and_underscores_are_the_same() -> None:
    assert modules.load_order(["virtio-rng"], {"virtio_rng": []}) == ["virtio_rng"]


def test_a_circle_is_named() -> None:
    with pytest.raises(InvalidInput, match="b -> c -> b"):
        modules.load_order(["a"], {"a": ["b"], "b": ["c"], "c": ["b"]})


def test_needs_are_read_from_the_module_itself() -> None:
    module = modules.parse(
        "virtio-rng", fakes.module_file(depends="virtio,virtio-ring", softdep="pre: crc32c-x post: z")
    )
    assert module.name == "virtio_rng"
    assert module.needs == ("virtio", "virtio_ring", "crc32c_x")


def test_compressed_modules_are_unpacked() -> None:
    plain = fakes.module_file()
    assert modules.parse("a", lzma.compress(plain)).data == plain


@pytest.mark.parametrize("data", [b"", b"no module", fakes.elf_file(), fakes.module_file()[:200]])
def test_what_is_no_module_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="kernel module bad"):
        modules.parse("bad", data)


def test_select_finds_modules_anywhere_in_the_tree(tmp_path: Path) -> None:
    for path, needs in (
        ("drivers/virtio/virtio.ko", "virtio_ring"),
        ("drivers/virtio/virtio_ring.ko.xz", ""),
    ):
        file = tmp_path / "kernel" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        data = fakes.module_file(depends=needs)
        file.write_bytes(lzma.compress(data) if path.endswith(".xz") else data)
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    selected = modules.select(tmp_path, ["virtio", "ext4"])
    assert [module.name for module in selected] == ["virtio_ring", "virtio"]


def test_a_missing_driver_is_named_unless_built_in(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/fs/overlayfs/overlay.ko\n")
    present = ["virtio_mmio", "virtio_blk", "virtio_console", "erofs"]
    assert modules.missing_drivers(present, tmp_path) == ["virtio_net"]
