"""What ordinary layers become: kinds, metadata, whiteouts, formats."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from midge.errors import ImageInvalid, OutOfSpace
from midge.images.compression import zstd_compress
from midge.images.layers import LayerSpec, unpack_layer
from midge.testing.images import Entry, directory, executable, hardlink, layer_tar, symlink
from tests.unit.images.jail import Jail, open_handles
from tests.unit.images.test_unpack_hostile import sparse_tar

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")]

# cap_net_raw+ep, as setcap stores it (VFS_CAP_REVISION_2).
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def is_whiteout(path: Path) -> bool:
    info = path.lstat()
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def test_modes_owners_and_times_are_kept(jail: Jail) -> None:
    jail.unpack(
        {
            "bin": directory(0o755, mtime_s=1000),
            "bin/su": Entry(data=b"x", mode=0o4755, uid=7, gid=8, mtime_s=1234.5),
            "tmp": directory(0o1777, uid=1, gid=2, mtime_s=2000),
        }
    )
    su, tmp = (jail.root / "bin/su").stat(), (jail.root / "tmp").stat()
    assert (stat.S_IMODE(su.st_mode), su.st_uid, su.st_gid, su.st_mtime_ns) == (
        0o4755,
        7,
        8,
        1_234_500_000_000,
    )
    assert (stat.S_IMODE(tmp.st_mode), tmp.st_uid, tmp.st_gid, tmp.st_mtime) == (0o1777, 1, 2, 2000)
    assert (jail.root / "bin").stat().st_mtime == 1000


def test_group_of_a_set_group_id_parent_is_not_inherited(jail: Jail) -> None:
    jail.unpack({"d": directory(0o2755, gid=50), "d/f": "x", "d/e/f": "x"})
    assert (jail.root / "d/f").stat().st_gid == 0
    assert (jail.root / "d/e").stat().st_gid == 0


def test_attributes_are_kept_and_labels_of_the_build_host_left_out(jail: Jail) -> None:
    jail.unpack(
        {
            "ping": Entry(
                xattrs={"security.capability": CAPABILITY, "user.a": b"b", "com.apple.provenance": b"x"}
            )
        }
    )
    assert os.getxattr(jail.root / "ping", "security.capability") == CAPABILITY
    assert set(os.listxattr(jail.root / "ping")) == {"security.capability", "user.a"}


def test_links_fifos_and_harmless_devices_are_made(jail: Jail) -> None:
    info = jail.unpack(
        {
            "a": "content",
            "b": hardlink("a"),
            "c": symlink("/etc/passwd"),
            "pipe": Entry(kind="fifo", mode=0o622),
            "dev/null": Entry(kind="char", device=(1, 3), mode=0o666),
        }
    )
    assert (jail.root / "a").stat().st_ino == (jail.root / "b").stat().st_ino
    assert str((jail.root / "c").readlink()) == "/etc/passwd"
    assert stat.S_ISFIFO((jail.root / "pipe").stat().st_mode)
    assert (jail.root / "dev/null").stat().st_rdev == os.makedev(1, 3)
    assert (info.dropped_devices, info.entries) == (0, 5)


def test_directories_a_tar_does_not_list_are_reported(jail: Jail) -> None:
    info = jail.unpack({"a/b/c": "x", "a/": directory(0o700)})
    assert info.implicit == [b"", b"a/b"]


def test_whiteouts_become_devices_and_opaque_marks_attributes(jail: Jail) -> None:
    info = jail.unpack({"etc/.wh.passwd": "", "var": directory(), "var/.wh..wh..opq": ""})
    assert is_whiteout(jail.root / "etc/passwd")
    assert is_opaque(jail.root / "var")
    assert info.whiteouts == 2


def test_opaque_root_is_reported(jail: Jail) -> None:
    assert jail.unpack({".wh..wh..opq": "", "f": "x"}).root_opaque


def test_whiteout_next_to_its_own_file_keeps_the_file(jail: Jail) -> None:
    jail.unpack({"a": "x", ".wh.a": "", ".wh.b": "", "b": "y"})
    assert (jail.root / "a").read_text() == "x"
    assert (jail.root / "b").read_text() == "y"


@pytest.mark.parametrize("first", ["mark", "directory"])
def test_whiteout_next_to_its_own_directory_makes_it_opaque(jail: Jail, first: str) -> None:
    entries: list[tuple[str, Entry]] = [(".wh.d", Entry()), ("d", directory())]
    jail.unpack(dict(entries if first == "mark" else reversed(entries)))
    assert is_opaque(jail.root / "d")


def test_whiteout_that_becomes_an_unlisted_parent_still_hides_what_is_below(jail: Jail) -> None:
    info = jail.unpack({".wh.d": "", "d/e/f": "x"})
    assert is_opaque(jail.root / "d")
    assert info.implicit == [b"", b"d/e"]
    assert (jail.root / "d").stat().st_mtime == 0


def test_directory_that_replaces_a_file_is_opaque(jail: Jail) -> None:
    jail.unpack({"d": "file", "./d": directory(), "d/f": "x"})
    assert is_opaque(jail.root / "d")


def test_last_of_several_entries_wins(jail: Jail) -> None:
    jail.unpack({"x/y/z": "1", "x": "file", "./x": symlink("a"), ".//x": executable("last")})
    assert (jail.root / "x").read_text() == "last"


def test_directory_listed_twice_keeps_content_and_takes_the_last_metadata(jail: Jail) -> None:
    jail.unpack({"d": directory(0o755, xattrs={"user.a": b"1"}), "d/f": "x", "d/": directory(0o700, uid=3)})
    info = (jail.root / "d").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, os.listxattr(jail.root / "d")) == (0o700, 3, [])
    assert (jail.root / "d/f").read_text() == "x"


def test_long_names_of_both_formats(jail: Jail, tmp_path: Path) -> None:
    name, target = "d/" * 60 + "n" * 120, "t" * 300
    for format_ in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
            tar.addfile(tarfile.TarInfo(name))
            link = tarfile.TarInfo(name + "l")
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        jail.unpack_tar(out.getvalue())
        assert (jail.root / name).is_file()
        assert str((jail.root / (name + "l")).readlink()) == target


def test_names_that_are_not_utf_8(jail: Jail) -> None:
    jail.unpack({os.fsdecode(b"caf\xe9"): "x"})
    assert [os.fsencode(path.name) for path in jail.root.iterdir()] == [b"caf\xe9"]


def test_sparse_file_of_gnu_tar(jail: Jail) -> None:
    jail.unpack_tar(sparse_tar(1_000_000, "4096,4,999996,4", b"headtail"))
    data = (jail.root / "sparse").read_bytes()
    assert (data[4096:4100], data[-4:], len(data)) == (b"head", b"tail", 1_000_000)
    assert (jail.root / "sparse").stat().st_blocks * 512 < 100_000


@pytest.mark.parametrize("stored", ["gzip", "zstd", "plain", "members", "frames"])
def test_every_compression(jail: Jail, stored: str) -> None:
    tar = layer_tar({"f": os.urandom(3_000_000)})
    half = len(tar) // 2
    data = {
        "gzip": gzip.compress(tar),
        "zstd": zstd_compress(tar),
        "plain": tar,
        "members": gzip.compress(tar[:half]) + gzip.compress(tar[half:]),
        "frames": zstd_compress(tar[:half]) + zstd_compress(tar[half:]),
    }[stored]
    jail.unpack_tar(tar, stored=data)
    assert (jail.root / "f").stat().st_size == 3_000_000


def test_highly_compressible_data_below_the_floor(jail: Jail) -> None:
    tar = layer_tar({"f": bytes(5_000_000)})
    jail.unpack_tar(tar, stored=gzip.compress(tar))
    assert (jail.root / "f").stat().st_size == 5_000_000


@pytest.mark.parametrize("compress", [gzip.compress, zstd_compress])
def test_truncated_compressed_data_is_refused(jail: Jail, compress) -> None:  # type: ignore[no-untyped-def] # two C functions
    tar = layer_tar({"f": os.urandom(100_000)})
    with pytest.raises(ImageInvalid):
        jail.unpack_tar(tar, stored=compress(tar)[:-20])


def test_garbage_after_compressed_data_is_refused(jail: Jail) -> None:
    tar = layer_tar({"f": "x"})
    with pytest.raises(ImageInvalid, match="damaged"):
        jail.unpack_tar(tar, stored=gzip.compress(tar) + b"garbage")


def test_flipped_bit_in_compressed_data_is_refused(jail: Jail) -> None:
    tar = layer_tar({"f": os.urandom(10_000)})
    data = bytearray(gzip.compress(tar))
    data[5000] ^= 4
    with pytest.raises(ImageInvalid):
        jail.unpack_tar(tar, stored=bytes(data))


def test_digest_and_size_of_the_stored_form_are_checked(tmp_path: Path) -> None:
    tar = layer_tar({"f": "x"})
    diff_id = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    for wrong in (
        LayerSpec(diff_id=diff_id, digest=f"sha256:{'0' * 64}", size_bytes=len(tar)),
        LayerSpec(diff_id=diff_id, digest=diff_id, size_bytes=len(tar) - 1),
    ):
        root = tmp_path / f"root{wrong.size_bytes}"
        root.mkdir()
        with pytest.raises(ImageInvalid):
            unpack_layer(io.BytesIO(tar), root, wrong)


def test_empty_layer(jail: Jail) -> None:
    assert jail.unpack({}).entries == 0


def test_pause_at_any_chunk_gives_up(tmp_path: Path) -> None:
    class GiveUp(Exception):
        pass

    def advance(done: int) -> None:
        raise GiveUp

    tar = layer_tar({"f": "x"})
    with pytest.raises(GiveUp):
        unpack_layer(io.BytesIO(tar), tmp_path, LayerSpec(diff_id=f"sha256:{'0' * 64}"), advance=advance)


def test_no_file_handles_are_left_open(jail: Jail) -> None:
    before = open_handles()
    jail.unpack({f"d{n}/f": "x" for n in range(300)})
    with pytest.raises(ImageInvalid):
        jail.unpack({"a/b": "x", "a/../b": "y"})
    assert open_handles() == before


def test_full_disk_is_reported_as_such(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k none {place} 2>/dev/null") != 0:
        pytest.skip("cannot mount a tmpfs here")
    try:
        root = place / "root"
        root.mkdir()
        tar = layer_tar({"f": os.urandom(200_000)})
        with pytest.raises(OutOfSpace):
            unpack_layer(
                io.BytesIO(tar), root, LayerSpec(diff_id=f"sha256:{hashlib.sha256(tar).hexdigest()}")
            )
    finally:
        os.system(f"umount {place}")
