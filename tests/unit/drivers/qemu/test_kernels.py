"""Changing over to a kernel that was built while the server runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from midge.drivers.qemu.kernels import Kernels
from midge.errors import DriverError
from midge.kernel import KernelFiles, KernelStore
from midge.kernel.store import Choice, Kernel
from tests.unit.kernel import fakes

pytestmark = pytest.mark.anyio


@pytest.fixture
def init(tmp_path: Path) -> Path:
    path = tmp_path / "init"
    path.write_bytes(fakes.static_program())
    return path


@pytest.fixture
async def store(tmp_path: Path) -> KernelStore:
    store = KernelStore(tmp_path / "store")
    await add(store, "debian")
    return store


async def add(store: KernelStore, flavour: str, version: str = "6.1.0") -> None:
    files = KernelFiles(version=version, image=fakes.vmlinux(f"{flavour} {version}"), modules=())
    await store.add(files, flavour, needs_acpi=False)  # type: ignore[arg-type]  # a flavour


class Templates:
    def __init__(self, error: Exception | None = None) -> None:
        self.made: list[str] = []
        self.error = error

    async def make(self, kernel: Kernel) -> None:
        self.made.append(kernel.flavour)
        if self.error is not None:
            raise self.error


async def opened(store: KernelStore, init: Path, choice: Choice = "auto") -> Kernels:
    kernels = Kernels(store, choice)
    await kernels.open(init)
    return kernels


async def test_nothing_new_changes_nothing(store: KernelStore, init: Path) -> None:
    kernels, templates = await opened(store, init), Templates()
    await kernels.look(templates.make)
    assert (kernels.current.flavour, kernels.others, templates.made) == ("debian", [], [])
    assert kernels.name == "debian 6.1.0"


async def test_a_trimmed_kernel_is_taken_once_its_templates_are_made(store: KernelStore, init: Path) -> None:
    kernels, templates = await opened(store, init), Templates()
    old = kernels.current
    await add(store, "trimmed")
    await kernels.look(templates.make)
    await kernels.look(templates.make)
    assert templates.made == ["trimmed"]
    assert kernels.current.flavour == "trimmed"
    assert kernels.others == [old]  # for the machines that were suspended with it


async def test_one_that_does_not_boot_is_not_taken_and_not_tried_again(
    store: KernelStore, init: Path
) -> None:
    kernels, templates = await opened(store, init), Templates(DriverError("no boot"))
    await add(store, "trimmed")
    await kernels.look(templates.make)
    await kernels.look(templates.make)
    assert (kernels.current.flavour, templates.made) == ("debian", ["trimmed"])


async def test_a_kernel_that_was_asked_for_by_name_stays(store: KernelStore, init: Path) -> None:
    kernels, templates = await opened(store, init, "debian"), Templates()
    await add(store, "trimmed")
    await kernels.look(templates.make)
    assert (kernels.current.flavour, templates.made) == ("debian", [])


async def test_after_a_restart_the_other_flavours_are_known(store: KernelStore, init: Path) -> None:
    await add(store, "trimmed")
    kernels = await opened(store, init)
    assert kernels.current.flavour == "trimmed"
    assert [kernel.flavour for kernel in kernels.others] == ["debian"]
