from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from midge.errors import InvalidInput, NotFound
from midge.kernel import KernelFiles, KernelStore, default_root
from midge.kernel.modules import Module
from midge.kernel.store import kernel_id
from tests.unit.kernel import fakes

pytestmark = pytest.mark.anyio


@pytest.fixture
def init_binary(tmp_path: Path) -> Path:
    path = tmp_path / "init"
    path.write_bytes(fakes.static_program())
    return path


@pytest.fixture
def debian_tree(tmp_path: Path) -> Path:
    """What an unpacked package of a kernel with all drivers but one built in looks like."""
    tree = tmp_path / "package"
    modules = tree / "lib/modules/6.1.0-test"
    (modules / "kernel").mkdir(parents=True)
    (modules / "kernel/virtio_net.ko").write_bytes(fakes.module_file())
    built_in = ("virtio_mmio", "virtio_blk", "virtio_console", "erofs", "ext4", "overlay")
    (modules / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in built_in))
    (tree / "boot").mkdir()
    (tree / "boot/vmlinuz-6.1.0-test").write_bytes(fakes.bzimage(fakes.vmlinux()))
    return tree


@pytest.fixture
def store(tmp_path: Path, debian_tree: Path) -> KernelStore:
    return KernelStore(tmp_path / "store", debian_source=debian_tree)


def files(text: str = "6.1.1-midge") -> KernelFiles:
    return KernelFiles(version=text, image=fakes.vmlinux(text), modules=())


async def test_ensure_makes_a_kernel_with_image_and_initramfs(store: KernelStore, init_binary: Path) -> None:
    kernel = await store.ensure("debian", init_binary=init_binary)
    assert kernel.flavour == "debian"
    assert kernel.version == "6.1.0-test"
    assert kernel.elf
    assert kernel.needs_acpi
    assert kernel.image.read_bytes() == fakes.vmlinux()
    archive = kernel.initramfs.read_bytes()
    assert b"/modules/virtio_net.ko\n" in archive
    assert kernel.id == kernel_id(kernel.image.read_bytes(), archive, kernel.cmdline)


async def test_ensure_twice_gives_the_same_kernel(store: KernelStore, init_binary: Path) -> None:
    assert await store.ensure(init_binary=init_binary) == await store.ensure(init_binary=init_binary)
    assert len(await store.list()) == 1


async def test_many_at_once_give_one_kernel(store: KernelStore, init_binary: Path) -> None:
    kernels = await asyncio.gather(*(store.ensure("debian", init_binary=init_binary) for _ in range(8)))
    assert len({kernel.id for kernel in kernels}) == 1
    assert len(list((store.root / "bases").iterdir())) == 1


async def test_two_stores_on_one_directory_agree(store: KernelStore, init_binary: Path) -> None:
    other = KernelStore(store.root, debian_source=store.debian_source)
    first, second = await asyncio.gather(
        store.ensure("debian", init_binary=init_binary), other.ensure("debian", init_binary=init_binary)
    )
    assert first.id == second.id
    assert list((store.root / "tmp").iterdir()) == []


async def test_another_init_is_another_kernel(store: KernelStore, init_binary: Path) -> None:
    before = await store.ensure("debian", init_binary=init_binary)
    init_binary.write_bytes(fakes.static_program() + b"\0")
    after = await store.ensure("debian", init_binary=init_binary)
    assert before.id != after.id
    assert before.image.is_file()


async def test_auto_prefers_the_trimmed_kernel(store: KernelStore, init_binary: Path) -> None:
    assert (await store.ensure("auto", init_binary=init_binary)).flavour == "debian"
    await store.add(files(), "trimmed", needs_acpi=False)
    kernel = await store.ensure("auto", init_binary=init_binary)
    assert (kernel.flavour, kernel.version, kernel.needs_acpi) == ("trimmed", "6.1.1-midge", False)


async def test_the_newest_of_a_flavour_is_taken(store: KernelStore, init_binary: Path) -> None:
    await store.add(files("6.1.1-midge"), "trimmed", needs_acpi=False)
    await store.add(files("6.1.2-midge"), "trimmed", needs_acpi=False)
    assert (await store.ensure("trimmed", init_binary=init_binary)).version == "6.1.2-midge"


async def test_adding_one_again_makes_it_the_newest(store: KernelStore, init_binary: Path) -> None:
    for version in ("6.1.1-midge", "6.1.2-midge", "6.1.1-midge"):
        await store.add(files(version), "trimmed", needs_acpi=False)
    assert (await store.ensure("trimmed", init_binary=init_binary)).version == "6.1.1-midge"


async def test_trimmed_is_not_built_behind_ones_back(store: KernelStore, init_binary: Path) -> None:
    with pytest.raises(NotFound) as caught:
        await store.ensure("trimmed", init_binary=init_binary)
    assert "midge kernel build" in caught.value.hint


async def test_a_missing_init_is_named(store: KernelStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await store.ensure("debian", init_binary=tmp_path / "nowhere")


async def test_a_dynamic_init_is_refused(store: KernelStore, init_binary: Path) -> None:
    init_binary.write_bytes(fakes.elf_file(segments=[(3, b"/lib64/ld-linux-x86-64.so.2\0")]))
    with pytest.raises(InvalidInput, match="dynamically"):
        await store.ensure("debian", init_binary=init_binary)


async def test_modules_keep_their_order_and_content(store: KernelStore, init_binary: Path) -> None:
    modules = tuple(Module(name=name, needs=(), data=name.encode()) for name in ("zz", "aa"))
    await store.add(
        KernelFiles(version="1", image=fakes.vmlinux(), modules=modules), "custom", needs_acpi=True
    )
    kernel = await store.ensure("custom", init_binary=init_binary)
    assert b"/modules/zz.ko\n/modules/aa.ko\n" in kernel.initramfs.read_bytes()


async def test_what_is_half_written_is_no_kernel(store: KernelStore, init_binary: Path) -> None:
    left_over = store.root / "tmp" / "abc" / "new"
    left_over.mkdir(parents=True)
    (left_over / "kernel.json").write_text("{}")
    (store.root / "kernels" / ("0" * 32)).mkdir(parents=True)
    assert await store.list() == []
    await store.ensure("debian", init_binary=init_binary)
    assert len(await store.list()) == 1


async def test_a_record_of_another_format_is_not_read(store: KernelStore, init_binary: Path) -> None:
    kernel = await store.ensure("debian", init_binary=init_binary)
    record = kernel.image.parent / "kernel.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "format": 999}))
    assert await store.list() == []


async def test_removed_is_gone_and_can_be_made_again(store: KernelStore, init_binary: Path) -> None:
    kernel = await store.ensure("debian", init_binary=init_binary)
    await store.remove(kernel.id)
    assert await store.list() == []
    assert not kernel.image.exists()
    assert (await store.ensure("debian", init_binary=init_binary)).id == kernel.id


@pytest.mark.parametrize("id", ["", "..", "../bases", "0" * 32])
async def test_removing_what_is_not_there_fails(store: KernelStore, id: str) -> None:
    with pytest.raises(NotFound, match="no kernel"):
        await store.remove(id)


def test_root_is_configured_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIDGE_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("MIDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_root() == Path("/somewhere/midge/kernels")
