"""Small ELF files and kernels, made up."""

from __future__ import annotations

import struct

NOTE = struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", 0x1000000)


def elf_file(
    *,
    sections: dict[str, bytes] | None = None,
    segments: list[tuple[int, bytes]] | None = None,
    trailer: bytes = b"",
) -> bytes:
    """An ELF file with these sections and segments (type, contents)."""
    names = b"\0"
    body = b""
    offsets: list[tuple[int, int, int]] = []
    named = {**(sections or {}), ".shstrtab": b""}
    for name in named:
        names += name.encode() + b"\0"
    named[".shstrtab"] = names
    segments = segments or []
    start = 64 + 56 * len(segments)
    position = 1
    for name, contents in named.items():
        offsets.append((position, start + len(body), len(contents)))
        position += len(name) + 1
        body += contents
    programs = b""
    for kind, contents in segments:
        programs += struct.pack(
            "<IIQQQQQQ", kind, 4, start + len(body), 0, 0, len(contents), len(contents), 4
        )
        body += contents
    table = start + len(body)
    headers = b"".join(
        struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 1, 0) for name, offset, size in offsets
    )
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, table, 0, 64, 56, len(segments), 64,
        len(offsets), len(offsets) - 1,
    )  # fmt: skip
    return header + programs + body + headers + trailer


def module_file(*, depends: str = "", softdep: str = "") -> bytes:
    fields = ["license=GPL", f"depends={depends}"]
    if softdep:
        fields.append(f"softdep={softdep}")
    return elf_file(sections={".text": b"\x90", ".modinfo": "\0".join(fields).encode() + b"\0"})


def vmlinux(version: str = "6.1.0-test") -> bytes:
    banner = f"Linux version {version} (somebody@somewhere) #1 SMP\0".encode()
    return elf_file(sections={".rodata": banner}, segments=[(4, NOTE)])


def static_program() -> bytes:
    return elf_file(sections={".text": b"\xf4"}, segments=[(1, b"\xf4")])


def bzimage(payload: bytes, version: str = "6.1.0-test") -> bytes:
    """A boot sector, one setup sector, and `payload` where the decompressor's data would be."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x100)
    text = version.encode() + b" (somebody) #1\0"
    head[0x300 : 0x300 + len(text)] = text
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + bytes(16) + payload
