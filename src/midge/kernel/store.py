"""Guest kernels on disk, by content.

    ROOT/bases/FLAVOUR-DIGEST/   image, modules/NN-NAME.ko, base.json    a kernel without an init
    ROOT/kernels/ID/             image, initramfs, kernel.json           a base with one init: what boots
    ROOT/tmp/                    being written

A directory appears under its name whole or not at all: it is written in tmp/, synced, and renamed. `Kernel.id`
covers the bytes of the image, of the initramfs and of the base command line. Whatever is made from a kernel
(templates, snapshots) is filed under that id, so none is ever used with another kernel or another init.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from midge.errors import InvalidInput, NotFound
from midge.kernel import debian, elf, initramfs, publish
from midge.kernel.debian import KernelFiles
from midge.kernel.modules import Module

Flavour = Literal["debian", "trimmed", "custom"]
Choice = Literal["auto", "debian", "trimmed", "custom"]

# In every id: raise it when the meaning of what is stored changes.
FORMAT = 1

_ID_DIGITS = 32
_FLAVOURS: tuple[Flavour, ...] = ("trimmed", "debian", "custom")


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel with an init, ready to boot.

    Attributes:
        id: 32 hex digits over everything a guest's boot depends on.
        flavour: where it comes from.
        version: what `uname -r` says in the guest.
        image: ELF vmlinux with a PVH entry, or a bzImage where `elf` is false.
        initramfs: cpio archive.
        cmdline: parameters that belong to this kernel; the VMM's own are added by `midge.kernel.cmdline`.
        needs_acpi: it finds its devices by ACPI only, not by virtio_mmio.device= parameters.
        elf: `image` is an ELF file, which Firecracker needs and QEMU starts quicker.
        created_ns: nanoseconds since 1970.
    """

    id: str
    flavour: Flavour
    version: str
    image: Path
    initramfs: Path
    cmdline: str
    needs_acpi: bool
    elf: bool
    created_ns: int


class _Base(msgspec.Struct, frozen=True, kw_only=True):
    """base.json: a kernel without an init."""

    format: int
    flavour: Flavour
    version: str
    cmdline: str
    needs_acpi: bool
    modules: tuple[str, ...]
    created_ns: int


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """kernel.json."""

    format: int
    flavour: Flavour
    version: str
    cmdline: str
    needs_acpi: bool
    elf: bool
    created_ns: int


_T = TypeVar("_T", _Base, _Record)


def default_root() -> Path:
    """``$MIDGE_CACHE``, or ``midge/kernels`` in the user's cache directory."""
    configured = os.environ.get("MIDGE_CACHE")
    if configured:
        return Path(configured)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "midge" / "kernels"


def kernel_id(image: bytes, archive: bytes, cmdline: str) -> str:
    """The identity of a kernel: 32 hex digits of SHA-256 over its parts, each with its length."""
    digest = hashlib.sha256(b"midge kernel %d %d\n" % (FORMAT, initramfs.FORMAT))
    for part in (image, archive, cmdline.encode()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:_ID_DIGITS]


class KernelStore:
    """The kernels under one directory.

    Several processes may share it: they publish by renaming, and whoever comes second takes what is there.

    Args:
        root: directory; made when first written to.
        debian_source: a .deb file or a directory to take the distribution's kernel from, instead of apt.
    """

    def __init__(self, root: Path, *, debian_source: Path | None = None) -> None:
        self.root = root
        self.debian_source = debian_source
        # One download or unpacking at a time; a second caller waits and then finds it done.
        self._lock = asyncio.Lock()

    async def ensure(self, flavour: Choice = "auto", *, init_binary: Path) -> Kernel:
        """A kernel of this flavour with this init, made if it is not there yet.

        ``auto`` takes the trimmed kernel if one was built, else the distribution's.

        Raises:
            NotFound: `init_binary` does not exist, or ``trimmed``/``custom`` was asked for and never added.
            InvalidInput: `init_binary` cannot run in a guest.
            MidgeError: the distribution's kernel could not be had; see `midge.kernel.debian.fetch`.
        """
        try:
            init = await asyncio.to_thread(init_binary.read_bytes)
        except OSError as error:
            raise NotFound(
                f"cannot read guest init {init_binary}", hint="build it with `make init`"
            ) from error
        async with self._lock:
            directory = await asyncio.to_thread(self._find_base, flavour)
            if directory is None:
                if flavour in ("trimmed", "custom"):
                    raise NotFound(
                        f"there is no {flavour} kernel", hint=f"add one: `midge kernel {_VERB[flavour]}`"
                    )
                files = await debian.fetch(self.debian_source)
                directory = await asyncio.to_thread(self._publish_base, files, "debian", "", True)
            return await asyncio.to_thread(self._publish_kernel, directory, init)

    async def add(self, files: KernelFiles, flavour: Flavour, *, cmdline: str = "", needs_acpi: bool) -> None:
        """Adds a kernel without an init; from then on `ensure` takes it for this flavour."""
        async with self._lock:
            await asyncio.to_thread(self._publish_base, files, flavour, cmdline, needs_acpi)

    async def newest(self, flavour: Choice = "auto") -> str:
        """The name of the base that `ensure` would take now, empty without one. Cheap enough to be asked often."""
        found = await asyncio.to_thread(self._find_base, flavour)
        return found.name if found else ""

    async def with_init(self, init_binary: Path) -> Sequence[Kernel]:
        """The newest kernel of every flavour that is here, with this init.

        Raises:
            NotFound, InvalidInput: as `ensure`.
        """
        found = []
        for flavour in _FLAVOURS:
            if await self.newest(flavour):
                found.append(await self.ensure(flavour, init_binary=init_binary))
        return found

    async def list(self) -> Sequence[Kernel]:
        """All kernels that are ready to boot, oldest first."""
        return await asyncio.to_thread(self._list)

    async def remove(self, id: str) -> None:
        """Removes a kernel with its init; guests that run it have its files open and are not disturbed.

        Raises:
            NotFound: no such kernel.
        """
        if len(id) != _ID_DIGITS or not id.isalnum():
            raise NotFound(f"there is no kernel {id[:64]!r}")
        await asyncio.to_thread(self._remove, id)

    def _find_base(self, flavour: Choice) -> Path | None:
        """The newest base of a flavour."""
        wanted = ("trimmed", "debian") if flavour == "auto" else (flavour,)
        for name in wanted:
            found = [
                (base.created_ns, path)
                for path in (self.root / "bases").glob(f"{name}-*")
                if (base := _read(path / "base.json", _Base)) is not None
            ]
            if found:
                return max(found)[1]
        return None

    def _publish_base(self, files: KernelFiles, flavour: Flavour, cmdline: str, needs_acpi: bool) -> Path:
        archive = b"".join(module.name.encode() + b"\0" + module.data for module in files.modules)
        digest = kernel_id(files.image, archive, cmdline)
        names = tuple(f"{index:02d}-{module.name}.ko" for index, module in enumerate(files.modules))
        base = _Base(
            format=FORMAT,
            flavour=flavour,
            version=files.version,
            cmdline=cmdline,
            needs_acpi=needs_acpi,
            modules=names,
            created_ns=time.time_ns(),
        )
        contents = {f"modules/{name}": module.data for name, module in zip(names, files.modules, strict=True)}
        contents |= {"image": files.image, "base.json": msgspec.json.encode(base)}
        target = publish.directory(
            self.root / "bases" / f"{flavour}-{digest}", contents, scratch=self._scratch
        )
        # Had it been there already, it is now the newest all the same: that is how one goes back to an older build.
        publish.replace(target / "base.json", msgspec.json.encode(base), scratch=self._scratch)
        return target

    def _publish_kernel(self, directory: Path, init: bytes) -> Kernel:
        base = _read(directory / "base.json", _Base)
        if base is None:
            raise NotFound(f"kernel {directory.name} was removed meanwhile", hint="try again")
        image = (directory / "image").read_bytes()
        # Names are NN-NAME.ko; what a module needs is settled by the order already.
        modules = [
            Module(
                name=name[3:].removesuffix(".ko"), needs=(), data=(directory / "modules" / name).read_bytes()
            )
            for name in base.modules
        ]
        archive = initramfs.build(init, modules)
        id = kernel_id(image, archive, base.cmdline)
        target = self.root / "kernels" / id
        if (kernel := _load(target)) is not None:
            return kernel
        record = _Record(
            format=FORMAT,
            flavour=base.flavour,
            version=base.version,
            cmdline=base.cmdline,
            needs_acpi=base.needs_acpi,
            elf=elf.is_elf64(image),
            created_ns=time.time_ns(),
        )
        contents = {"initramfs": archive, "image": image, "kernel.json": msgspec.json.encode(record)}
        publish.directory(target, contents, scratch=self._scratch)
        kernel = _load(target)
        if kernel is None:
            raise InvalidInput(f"{target} is damaged", hint=f"remove it: rm -r {target}")
        return kernel

    def _list(self) -> Sequence[Kernel]:
        kernels = [_load(path) for path in (self.root / "kernels").glob("*")]
        return sorted(
            (kernel for kernel in kernels if kernel is not None), key=lambda kernel: kernel.created_ns
        )

    def _remove(self, id: str) -> None:
        try:
            publish.remove(self.root / "kernels" / id, scratch=self._scratch)
        except FileNotFoundError as error:
            raise NotFound(f"there is no kernel {id}", hint="`midge kernel list` shows them") from error

    @property
    def _scratch(self) -> Path:
        return self.root / "tmp"


_VERB = {"trimmed": "build", "custom": "add"}


def _load(directory: Path) -> Kernel | None:
    record = _read(directory / "kernel.json", _Record)
    if record is None:
        return None
    return Kernel(
        id=directory.name,
        flavour=record.flavour,
        version=record.version,
        image=directory / "image",
        initramfs=directory / "initramfs",
        cmdline=record.cmdline,
        needs_acpi=record.needs_acpi,
        elf=record.elf,
        created_ns=record.created_ns,
    )


def _read(path: Path, kind: type[_T]) -> _T | None:
    """The record in a file; None if it is not there, broken, or of another format."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None
    return record if record.format == FORMAT else None
