"""Which kernel modules a guest needs, and the order to load them in.

A distribution's package carries no modules.dep (its installation runs depmod), so dependencies are read from
each module's own .modinfo section, as depmod does. The guest's init then only has to load a list from top to
bottom.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from midge.errors import InvalidInput
from midge.kernel import compression, elf

# What a guest is made of, in the order wanted where dependencies leave a choice. A kernel that has one of these
# built in, or does not have it at all, simply ships no file for it: `missing_drivers` says which do matter.
WANTED = (
    "virtio_mmio",
    "virtio_console",  # guest channel under QEMU
    "virtio_blk",
    "crc32c-intel",  # erofs and ext4 checksums; the generic one is built in
    "erofs",
    "ext4",
    "overlay",
    "virtio-rng",
    "virtio_net",
    "vmw_vsock_virtio_transport",  # guest channel under Firecracker
    "af_packet",
    "ipv6",
    "virtio_balloon",
    "fuse",
    "tun",
    "vmgenid",
)

# Without these no machine starts.
ESSENTIAL = frozenset(
    {"virtio_mmio", "virtio_blk", "virtio_console", "virtio_net", "erofs", "ext4", "overlay"}
)

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """A loadable module: its name (with underscores), what must be loaded before it, its ELF file."""

    name: str
    needs: tuple[str, ...]
    data: bytes


def canonical(name: str) -> str:
    """Module names treat ``-`` and ``_`` alike; the kernel reports underscores."""
    return name.replace("-", "_")


def parse(name: str, data: bytes) -> Module:
    """The module in `data`, the contents of a .ko file, compressed or not.

    Raises:
        InvalidInput: it is no kernel module.
    """
    try:
        unpacked = compression.decompress(data)
        info = elf.section(unpacked, ".modinfo")
    except ValueError as error:
        raise InvalidInput(f"kernel module {name} is broken") from error
    if info is None:
        raise InvalidInput(f"kernel module {name} has no .modinfo section")
    needs: list[str] = []
    for field in info.split(b"\0"):
        key, _, value = field.decode("ascii", "replace").partition("=")
        if key == "depends":
            needs += [canonical(item) for item in value.split(",") if item]
        elif key == "softdep" and value.startswith("pre:"):
            needs += [canonical(item) for item in value.removeprefix("pre:").split("post:")[0].split()]
    return Module(name=canonical(name), needs=tuple(dict.fromkeys(needs)), data=unpacked)


def load_order(wanted: Iterable[str], needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Names in an order in which each module follows all it needs.

    A name missing from `needs` is taken for built in and left out. The order depends on the order of `wanted` only.

    Raises:
        InvalidInput: modules need each other in a circle.
    """
    ordered: dict[str, None] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in ordered or name not in needs:
            return
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise InvalidInput(f"kernel modules need each other: {circle}")
        path.append(name)
        for needed in needs[name]:
            visit(needed)
        path.pop()
        ordered[name] = None

    for name in wanted:
        visit(canonical(name))
    return list(ordered)


def select(tree: Path, wanted: Iterable[str] = WANTED) -> list[Module]:
    """The wanted modules under `tree` (a lib/modules/<version> directory) and all they need, in load order.

    Raises:
        InvalidInput: a module is broken, or a circle of needs.
    """
    files = {canonical(path.name.partition(".ko")[0]): path for path in _module_files(tree)}
    modules: dict[str, Module] = {}
    queue = [canonical(name) for name in wanted]
    roots = list(queue)
    while queue:
        name = queue.pop()
        if name in files and name not in modules:
            modules[name] = parse(name, files[name].read_bytes())
            queue.extend(modules[name].needs)
    order = load_order(roots, {name: module.needs for name, module in modules.items()})
    return [modules[name] for name in order]


def built_in(tree: Path) -> frozenset[str]:
    """Modules linked into the kernel itself, from modules.builtin."""
    listing = tree / "modules.builtin"
    if not listing.is_file():
        return frozenset()
    lines = listing.read_text().splitlines()
    return frozenset(canonical(Path(line).name.removesuffix(".ko")) for line in lines)


def missing_drivers(present: Iterable[str], tree: Path) -> list[str]:
    """Essential drivers that are neither among `present` nor built in, sorted."""
    have = {canonical(name) for name in present} | built_in(tree)
    return sorted(name for name in ESSENTIAL if name not in have)


def _module_files(tree: Path) -> Iterable[Path]:
    return (path for path in sorted(tree.rglob("*.ko*")) if path.name.endswith(_SUFFIXES))
