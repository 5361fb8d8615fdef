"""Kernel images: which version one is, and the ELF file inside a bzImage.

A bzImage is a boot sector, a decompressor and a packed vmlinux (Documentation/x86/boot.rst). The decompressor
runs in the guest at every cold boot: 0.35 of 3 s of processor time for Debian's under software emulation. So the
vmlinux is taken out once, on the host; a VMM starts it through its PVH entry. Firecracker wants it in that form.
"""

from __future__ import annotations

import re
import struct

from midge.errors import InvalidInput
from midge.kernel import compression, elf

_BANNER = re.compile(rb"Linux version (\d+\.\d+[^ \0]*) ")
_MAGIC_AT = 0x202
_MAGIC = b"HdrS"


def version_of(image: bytes) -> str:
    """The release a kernel image reports as `uname -r`, such as ``6.1.0-56-cloud-amd64``.

    Raises:
        InvalidInput: neither a vmlinux nor a bzImage.
    """
    if elf.is_elf64(image):
        found = _BANNER.search(image)
        if found:
            return found[1].decode()
    elif image[_MAGIC_AT : _MAGIC_AT + 4] == _MAGIC:
        (offset,) = struct.unpack_from("<H", image, 0x20E)
        text = image[offset + 0x200 : offset + 0x300].split(b"\0")[0]
        return text.split(b" ")[0].decode()
    raise InvalidInput(
        "not a Linux kernel for x86-64", hint="give a vmlinux (ELF) or a bzImage such as /boot/vmlinuz"
    )


def vmlinux_of(image: bytes) -> bytes:
    """The ELF file in a bzImage; a vmlinux, or an image with no PVH entry to start it by, comes back as it is."""
    if elf.is_elf64(image) or image[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        return image
    setup_sectors = image[0x1F1] or 4
    payload_offset, payload_size = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + payload_offset
    try:
        unpacked = compression.decompress(image[start : start + payload_size])
    except ValueError:
        return image
    return unpacked if elf.has_pvh_entry(unpacked) else image
