"""The first file system a guest sees: its init, the modules to load, and empty directories to mount on.

    /init              the guest init, a static program; the kernel starts it as PID 1
    /modules.list      absolute paths of modules, one a line, in the order to load them; empty if none are needed
    /modules/NAME.ko   the modules, not compressed
    /dev /proc /sys /run /tmp /newroot
    /dev/console       where init's output goes before it has mounted anything

It is not compressed. A template is booted once per shape and host, and from the host's page cache copying is
quicker than having an emulated processor decompress.
"""

from __future__ import annotations

from collections.abc import Sequence

from midge.errors import InvalidInput
from midge.kernel import cpio, elf
from midge.kernel.modules import Module

# Part of every kernel's identity: raise it whenever the layout above changes.
FORMAT = 1

_DIRECTORIES = ("dev", "proc", "sys", "run", "tmp", "newroot", "modules")


def build(init: bytes, modules: Sequence[Module] = ()) -> bytes:
    """The archive holding this init binary and these modules, given in load order.

    Raises:
        InvalidInput: `init` is no ELF executable, or needs a dynamic loader, which the guest does not have.
    """
    if not elf.is_elf64(init):
        raise InvalidInput(
            "guest init is not a 64-bit ELF executable", hint="build it for x86_64-unknown-linux-musl"
        )
    if elf.interpreter(init) is not None:
        raise InvalidInput(
            "guest init is linked dynamically, but there is no loader in the guest",
            hint="build it for x86_64-unknown-linux-musl, or link it with -static",
        )
    paths = [f"modules/{module.name}.ko" for module in modules]
    listing = "".join(f"/{path}\n" for path in paths)
    return cpio.archive(
        [
            *(cpio.directory(name) for name in _DIRECTORIES),
            cpio.char_device("dev/console", 5, 1),
            cpio.file("init", init, 0o755),
            cpio.file("modules.list", listing.encode()),
            *(cpio.file(path, module.data) for path, module in zip(paths, modules, strict=True)),
        ]
    )
