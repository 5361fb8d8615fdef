"""Takes a guest kernel out of a Debian or Ubuntu package, without installing it.

The packages come from the host's own package sources, verified by apt. Elsewhere, or offline, the source may be
a .deb file, or a directory with a kernel and its modules.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path

import msgspec

from midge.errors import InvalidInput, MidgeError, NotFound
from midge.kernel import image, modules
from midge.kernel.commands import run

# Meta packages in order of preference: cloud kernels, small and with virtio. The last two are Ubuntu's.
META_PACKAGES = ("linux-image-cloud-amd64", "linux-image-kvm", "linux-image-virtual")

# Seconds. The package is some 30 MB.
_DOWNLOAD_TIMEOUT_S = 300.0
_QUERY_TIMEOUT_S = 60.0
_UNPACK_TIMEOUT_S = 120.0

# A meta package may depend on another one; deeper than this is a circle.
_DEPENDENCY_DEPTH_MAX = 4

_REAL_PACKAGE = re.compile(r"linux-(image|modules)-(unsigned-)?\d[^\s:]*")

_HINT = (
    "connect to a package mirror and run `apt-get update`, or give the path of a linux-image-*-cloud-amd64 .deb, "
    "or a directory with vmlinuz and lib/modules, as the kernel source"
)


class KernelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel to boot guests with: its image (an ELF vmlinux where there is one) and modules in load order."""

    version: str
    image: bytes
    modules: tuple[modules.Module, ...]


async def fetch(source: Path | None = None) -> KernelFiles:
    """Reads the kernel from `source` (a .deb file or a directory); without one, downloads the package.

    Raises:
        NotFound: no package or no kernel could be had.
        InvalidInput: the kernel lacks a driver without which no machine starts.
        MidgeError: a tool is missing or failed; the hint names the other ways.
    """
    if source is not None and source.is_dir():
        return await asyncio.to_thread(read_tree, source)
    with tempfile.TemporaryDirectory(prefix="midge-kernel-") as temporary:
        directory = Path(temporary)
        if source is None:
            packages = await _download(directory)
        elif source.is_file():
            packages = [source.resolve()]
        else:
            raise NotFound(f"kernel source {source} does not exist", hint=_HINT)
        tree = directory / "tree"
        for package in packages:
            await run(["dpkg-deb", "-x", str(package), str(tree)], timeout_s=_UNPACK_TIMEOUT_S, hint=_HINT)
        return await asyncio.to_thread(read_tree, tree)


def read_tree(tree: Path) -> KernelFiles:
    """The kernel in a directory laid out like an unpacked package, or with vmlinuz and lib/modules at its top.

    Raises:
        NotFound: there is no kernel image, or no modules for its version.
        InvalidInput: a driver without which no machine starts is missing.
    """
    candidates = [
        path for pattern in ("boot/vmlinu[xz]*", "vmlinu[xz]*") for path in sorted(tree.glob(pattern))
    ]
    if not candidates:
        raise NotFound(f"no kernel image in {tree}", hint="expected boot/vmlinuz-<version> or vmlinuz")
    raw = candidates[-1].read_bytes()
    version = image.version_of(raw)
    module_tree = next(
        (path for prefix in ("lib", "usr/lib") if (path := tree / prefix / "modules" / version).is_dir()),
        None,
    )
    if module_tree is None:
        raise NotFound(f"no modules for kernel {version} in {tree}", hint=f"expected lib/modules/{version}")
    selected = modules.select(module_tree)
    missing = modules.missing_drivers((module.name for module in selected), module_tree)
    if missing:
        raise InvalidInput(
            f"kernel {version} has no {', '.join(missing)}",
            hint="use a cloud or virtual flavour of the kernel package, or `midge kernel build`",
        )
    return KernelFiles(version=version, image=image.vmlinux_of(raw), modules=tuple(selected))


async def _download(directory: Path) -> list[Path]:
    names = await _real_packages()
    # `-o`: apt would otherwise warn that its own user cannot enter our directory, and go on as root anyway.
    argv = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *names]
    await run(argv, cwd=directory, timeout_s=_DOWNLOAD_TIMEOUT_S, hint=_HINT)
    packages = sorted(directory.glob("*.deb"))
    if len(packages) != len(names):
        raise NotFound(
            f"apt-get downloaded {len(packages)} of {len(names)} packages: {', '.join(names)}", hint=_HINT
        )
    return packages


async def _real_packages() -> list[str]:
    for meta in META_PACKAGES:
        try:
            found = await _resolve(meta)
        except MidgeError as error:
            if error.code == "not_supported":  # no apt at all: the next name cannot help
                raise
            continue
        if any(name.startswith("linux-image-") for name in found):
            return sorted(found)
    raise NotFound(f"no package {' or '.join(META_PACKAGES)} is known to apt", hint=_HINT)


async def _resolve(meta: str) -> set[str]:
    """Image and module packages with a version in their name that `meta` leads to."""
    found: set[str] = set()
    level = [meta]
    for _ in range(_DEPENDENCY_DEPTH_MAX):
        if not level:
            break
        output = await run(
            ["apt-cache", "depends", "--important", *level], timeout_s=_QUERY_TIMEOUT_S, hint=_HINT
        )
        needed = set(parse_depends(output)) - found
        found |= {name for name in needed if _REAL_PACKAGE.fullmatch(name)}
        level = sorted(name for name in needed if name.startswith(("linux-image-", "linux-modules-")))
    return found


def parse_depends(output: str) -> list[str]:
    """Names after ``Depends:`` in what `apt-cache depends` prints."""
    return [
        line.partition("Depends:")[2].strip()
        for line in output.splitlines()
        if line.strip().startswith(("Depends:", "|Depends:"))
    ]
