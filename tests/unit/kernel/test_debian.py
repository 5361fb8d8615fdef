from __future__ import annotations

from pathlib import Path

import pytest

from midge.errors import DeadlineExceeded, InvalidInput, NotFound, NotSupported, Unavailable
from midge.kernel import debian
from midge.kernel.commands import run
from tests.deadlines import PATIENCE_S
from tests.unit.kernel import fakes


def test_dependencies_are_read_from_what_apt_prints() -> None:
    output = (
        "linux-image-cloud-amd64\n"
        "  Depends: linux-image-6.1.0-56-cloud-amd64\n"
        " |Depends: initramfs-tools\n"
        "  Depends: <linux-initramfs-tool>\n"
        "    dracut\n"
        "  Recommends: firmware\n"
    )
    assert debian.parse_depends(output) == [
        "linux-image-6.1.0-56-cloud-amd64",
        "initramfs-tools",
        "<linux-initramfs-tool>",
    ]


def test_a_directory_without_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no kernel image"):
        debian.read_tree(tmp_path)


def test_a_kernel_without_its_modules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(fakes.bzimage(fakes.vmlinux()))
    with pytest.raises(NotFound, match=r"no modules for kernel 6\.1\.0-test"):
        debian.read_tree(tmp_path)


def test_a_kernel_that_lacks_drivers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(fakes.vmlinux())
    (tmp_path / "usr/lib/modules/6.1.0-test").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="has no erofs, ext4, overlay"):
        debian.read_tree(tmp_path)


@pytest.mark.anyio
async def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"kernel\.deb does not exist") as caught:
        await debian.fetch(tmp_path / "kernel.deb")
    assert "apt-get update" in caught.value.hint


@pytest.mark.anyio
async def test_a_missing_tool_is_named() -> None:
    with pytest.raises(NotSupported, match="no-such-tool is not installed"):
        await run(["no-such-tool"], timeout_s=PATIENCE_S)


@pytest.mark.anyio
async def test_a_failed_tool_is_quoted() -> None:
    with pytest.raises(Unavailable, match="failed with 3: it broke"):
        await run(["sh", "-c", "echo it broke; exit 3"], timeout_s=PATIENCE_S)


@pytest.mark.anyio
async def test_a_tool_that_hangs_is_ended_with_its_children() -> None:
    with pytest.raises(DeadlineExceeded, match="did not end"):
        await run(["sh", "-c", "sleep 60 & wait"], timeout_s=0.05)


@pytest.mark.anyio
async def test_lines_are_passed_on_as_they_come() -> None:
    lines: list[str] = []
    assert await run(["printf", "a\\nb\\n"], timeout_s=PATIENCE_S, on_line=lines.append) == "a\nb"
    assert lines == ["a", "b"]
