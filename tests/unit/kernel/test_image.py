from __future__ import annotations

import bz2
import gzip
import lzma
import struct

import pytest

from midge.errors import InvalidInput
from midge.kernel import compression, elf, image
from tests.unit.kernel import fakes

# "abcabcabcabcabcabc!" in lz4's legacy format: literals "abc", a match that overlaps itself, literals "!".
LZ4_BLOCK = bytes([0x3B, *b"abc", 3, 0, 0x10, *b"!"])
LZ4 = b"\x02\x21\x4c\x18" + struct.pack("<I", len(LZ4_BLOCK)) + LZ4_BLOCK


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, bytes])
def test_vmlinux_is_taken_out_of_a_bzimage(pack: object) -> None:
    assert callable(pack)
    inner = fakes.vmlinux()
    payload = pack(inner)
    if pack is bytes:
        assert image.vmlinux_of(fakes.bzimage(payload)) == inner
    else:
        assert image.vmlinux_of(fakes.bzimage(payload + b"size")) == inner


def test_a_bzimage_without_pvh_entry_stays_as_it_is() -> None:
    whole = fakes.bzimage(gzip.compress(fakes.elf_file()))
    assert image.vmlinux_of(whole) == whole


def test_a_bzimage_packed_by_something_unknown_stays_as_it_is() -> None:
    whole = fakes.bzimage(gzip.compress(fakes.vmlinux())[:-9])
    assert image.vmlinux_of(whole) == whole


def test_version_is_read_from_both_forms() -> None:
    assert image.version_of(fakes.vmlinux("6.1.0-56-cloud-amd64")) == "6.1.0-56-cloud-amd64"
    assert image.version_of(fakes.bzimage(b"", "6.8.0-45-kvm")) == "6.8.0-45-kvm"


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not a Linux kernel"):
        image.version_of(b"MZ")


def test_pvh_entry_is_found_in_the_notes() -> None:
    assert elf.has_pvh_entry(fakes.vmlinux())
    assert not elf.has_pvh_entry(fakes.static_program())
    assert not elf.has_pvh_entry(b"")


def test_interpreter_of_a_dynamic_program() -> None:
    program = fakes.elf_file(segments=[(3, b"/lib64/ld-linux-x86-64.so.2\0")])
    assert elf.interpreter(program) == "/lib64/ld-linux-x86-64.so.2"
    assert elf.interpreter(fakes.static_program()) is None


def test_lz4_legacy_is_unpacked() -> None:
    assert compression.decompress(LZ4) == b"abcabcabcabcabcabc!"


def test_lz4_ignores_the_size_a_kernel_carries_behind_it() -> None:
    assert compression.decompress(LZ4 + struct.pack("<I", 19)) == b"abcabcabcabcabcabc!"


@pytest.mark.parametrize("block", [bytes([0x1B, 0x61, 9, 0]), bytes([0xF0]), bytes([0x10, 0x61, 1])])
def test_broken_lz4_is_refused(block: bytes) -> None:
    data = b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block
    with pytest.raises(ValueError, match="broken"):
        compression.decompress(data)


def test_what_is_not_compressed_comes_back() -> None:
    assert compression.decompress(b"plain") == b"plain"
