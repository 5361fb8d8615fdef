"""Boots the stored kernels in QEMU, with software emulation, up to a marker their init prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from midge.errors import MidgeError
from midge.kernel import Kernel, KernelStore, build_cmdline, default_root, tsc
from midge.kernel.commands import run
from midge.kernel.store import Choice

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm]

_HERE = Path(__file__).parent
# Debian's kernel needs some three seconds on a free processor.
_BOOT_TIMEOUT_S = 90.0


@pytest.fixture
async def init_binary(tmp_path: Path) -> Path:
    for tool in ("gcc", "qemu-system-x86_64"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    program = tmp_path / "init"
    await run(["gcc", "-static", "-Os", "-o", str(program), str(_HERE / "marker_init.c")], timeout_s=60)
    return program


async def boot(kernel: Kernel, disk: Path, *, acpi: bool) -> str:
    """What a guest prints on its serial port until it ends by itself."""
    board = "microvm,pic=off,pit=off,rtc=on,acpi=on" if acpi else "microvm,pic=on,pit=on,rtc=on,acpi=off"
    cmdline = build_cmdline(
        "tcg", acpi=acpi, console=True, tsc_khz=tsc.measure_khz(), extra=kernel.cmdline.split()
    )
    argv = ["qemu-system-x86_64", "-M", board, "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults"]
    argv += ["-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]
    argv += ["-kernel", str(kernel.image), "-initrd", str(kernel.initramfs), "-append", cmdline]
    argv += ["-drive", f"if=none,id=disk,file={disk},format=raw", "-device", "virtio-blk-device,drive=disk"]
    argv += [
        "-device",
        "virtio-serial-device",
        "-chardev",
        "null,id=null",
        "-device",
        "virtconsole,chardev=null",
    ]
    return await run(argv, timeout_s=_BOOT_TIMEOUT_S)


@pytest.mark.parametrize(("flavour", "acpi"), [("debian", True), ("trimmed", True), ("trimmed", False)])
async def test_kernel_boots_to_its_init_with_all_drivers(
    flavour: Choice, acpi: bool, init_binary: Path, tmp_path: Path
) -> None:
    store = KernelStore(default_root())
    try:
        kernel = await store.ensure(flavour, init_binary=init_binary)
    except MidgeError as error:
        pytest.skip(f"no {flavour} kernel: {error} ({error.hint})")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    try:
        output = await boot(kernel, disk, acpi=acpi)
    finally:
        await store.remove(kernel.id)
    marker = next(
        (line for line in output.splitlines() if line.startswith("MARKER")), f"none in {output[-2000:]}"
    )
    assert f"version={kernel.version} " in marker
    assert "erofs=1 ext4=1 overlay=1 vda=1 console=1 cgroup2=1" in marker
    assert "FAILED" not in output
    assert ("modules=0" in marker) == (flavour == "trimmed")
