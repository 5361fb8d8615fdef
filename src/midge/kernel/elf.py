"""The few facts needed from 64-bit ELF files: a module's .modinfo, and whether a kernel has a PVH entry."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MAGIC = b"\x7fELF\x02\x01"  # 64 bit, little endian
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_PT_INTERP = 3
_PT_NOTE = 4
# XEN_ELFNOTE_PHYS32_ENTRY, include/xen/interface/elfnote.h: address a PVH boot loader jumps to.
_NOTE_PHYS32_ENTRY = 18


def is_elf64(data: bytes) -> bool:
    return data.startswith(_MAGIC)


def section(data: bytes, name: str) -> bytes | None:
    """Contents of the section called `name`, or None.

    Raises:
        ValueError: `data` is not a 64-bit little-endian ELF file, or it is cut short.
    """
    if not is_elf64(data):
        raise ValueError("not a 64-bit ELF file")
    try:
        header = _HEADER.unpack_from(data)
        table, entry_size, count, names_index = header[6], header[11], header[12], header[13]
        sections = [_SECTION.unpack_from(data, table + index * entry_size) for index in range(count)]
        names = sections[names_index]
        wanted = name.encode() + b"\0"
        for entry in sections:
            start = names[4] + entry[0]
            if data[start : start + len(wanted)] == wanted:
                contents = data[entry[4] : entry[4] + entry[5]]
                if len(contents) != entry[5]:
                    raise ValueError(f"section {name} is cut short")
                return contents
    except (struct.error, IndexError) as error:
        raise ValueError("broken ELF section table") from error
    return None


def has_pvh_entry(data: bytes) -> bool:
    """Whether a VMM can start this kernel image through PVH, without decompressor and real mode."""
    return any(
        _has_note(notes, b"Xen\0", _NOTE_PHYS32_ENTRY) for kind, notes in _segments(data) if kind == _PT_NOTE
    )


def interpreter(data: bytes) -> str | None:
    """The dynamic loader an executable asks for; None if it is static."""
    for kind, contents in _segments(data):
        if kind == _PT_INTERP:
            return contents.rstrip(b"\0").decode("utf-8", "replace")
    return None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and file contents of each segment; nothing if this is no ELF file or its table is cut short."""
    if not is_elf64(data) or len(data) < _HEADER.size:
        return
    header = _HEADER.unpack_from(data)
    table, entry_size, count = header[5], header[9], header[10]
    for index in range(count):
        at = table + index * entry_size
        if at + _PROGRAM.size > len(data):
            return
        kind, _, offset, _, _, size, _, _ = _PROGRAM.unpack_from(data, at)
        # Only small segments are ever asked for; slices of the others would copy the whole kernel.
        if kind in (_PT_INTERP, _PT_NOTE):
            yield kind, data[offset : offset + size]


def _has_note(notes: bytes, owner: bytes, wanted: int) -> bool:
    position = 0
    while position + 12 <= len(notes):
        name_size, value_size, kind = struct.unpack_from("<III", notes, position)
        if kind == wanted and notes[position + 12 : position + 12 + name_size] == owner:
            return True
        position += 12 + (name_size + 3 & ~3) + (value_size + 3 & ~3)
    return False
