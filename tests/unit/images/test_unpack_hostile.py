"""Every trick a hostile layer may play, one test each. `Jail` checks that nothing outside the root changed."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from pathlib import Path

import msgspec
import pytest

from midge.errors import ImageInvalid
from midge.images.limits import DEFAULT_LIMITS, ImageLimits, check
from midge.testing.images import Entry, directory, hardlink, layer_tar, symlink
from tests.unit.images.jail import Jail

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")]


def limited(tmp_path: Path, **changes: int) -> Jail:
    return Jail(tmp_path, msgspec.structs.replace(DEFAULT_LIMITS, **changes))


@pytest.mark.parametrize("name", ["../passwd", "a/../../passwd", "a/..", "..", "./../outside/secret"])
def test_dot_dot_in_a_name_is_refused(jail: Jail, name: str) -> None:
    with pytest.raises(ImageInvalid, match="component no image may have"):
        jail.unpack({name: "owned"})


def test_absolute_name_lands_below_the_root(jail: Jail) -> None:
    jail.unpack({f"{jail.outside}/secret": "owned", "/etc/passwd": "inside"})
    assert (jail.root / "etc/passwd").read_text() == "inside"
    assert (jail.root / str(jail.outside).lstrip("/") / "secret").read_text() == "owned"


def test_file_through_an_absolute_symlink_lands_below_the_root(jail: Jail) -> None:
    jail.unpack({"outside": directory(), "x": symlink("/outside"), "x/secret": "owned"})
    assert (jail.root / "outside/secret").read_text() == "owned"


def test_file_through_a_symlink_that_climbs_lands_below_the_root(jail: Jail) -> None:
    jail.unpack(
        {"outside": directory(), "a": directory(), "a/x": symlink("../../../../outside"), "a/x/f": "inside"}
    )
    assert (jail.root / "outside/f").read_text() == "inside"


def test_symlinked_parent_to_nowhere_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="link to nowhere"):
        jail.unpack({"x": symlink(str(jail.outside)), "x/secret": "owned"})


def test_symlink_chain_stays_below_the_root(jail: Jail) -> None:
    jail.unpack({"d": directory(), "a": symlink("b"), "b": symlink("c"), "c": symlink("/d"), "a/f": "x"})
    assert (jail.root / "d/f").read_text() == "x"


def test_symlink_loop_as_parent_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid):
        jail.unpack({"a": symlink("b"), "b": symlink("a"), "a/f": "x"})


def test_magic_link_as_parent_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid):
        jail.unpack({"x": symlink("/proc/self/root"), f"x{jail.outside}/secret": "owned"})


def test_file_over_a_symlink_replaces_the_link_and_not_its_target(jail: Jail) -> None:
    jail.unpack({"x": symlink(str(jail.outside / "secret")), "y": "1", "./x": "owned"})
    assert not (jail.root / "x").is_symlink()
    assert (jail.root / "x").read_text() == "owned"


def test_directory_over_a_symlink_does_not_change_its_target(jail: Jail) -> None:
    jail.unpack({"x": symlink(str(jail.outside)), "./x": directory(0o777), "x/f": "inside"})
    assert (jail.root / "x").is_dir()
    assert not (jail.root / "x").is_symlink()


def test_parent_replaced_by_a_symlink_between_entries_is_resolved_anew(jail: Jail) -> None:
    jail.unpack(
        {"d/a": "1", "other": directory(), "d": symlink("/other"), "d/secret": "inside"},
    )
    assert (jail.root / "d").is_symlink()
    assert (jail.root / "other/secret").read_text() == "inside"


def test_cached_parent_replaced_by_an_outward_symlink_is_resolved_anew(jail: Jail) -> None:
    with pytest.raises(ImageInvalid):
        jail.unpack({"d/a": "1", "d/b": "2", "d": symlink(str(jail.outside)), "d/secret": "owned"})


def test_hard_link_to_outside_by_absolute_name_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="no file of this layer"):
        jail.unpack({"x": hardlink(str(jail.outside / "secret"))})


def test_hard_link_to_outside_by_dot_dot_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid):
        jail.unpack({"x": hardlink("../../outside/secret")})


def test_hard_link_through_a_symlinked_directory_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="no file of this layer"):
        jail.unpack({"d": symlink(str(jail.outside)), "x": hardlink("d/secret")})


def test_hard_link_to_a_symlink_links_the_link_and_writing_over_it_stays_inside(jail: Jail) -> None:
    jail.unpack({"s": symlink(str(jail.outside / "secret")), "h": hardlink("s"), "./h": "owned"})
    assert (jail.root / "s").is_symlink()
    assert (jail.root / "h").read_text() == "owned"


def test_hard_link_to_a_directory_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="no file of this layer"):
        jail.unpack({"d": directory(), "x": hardlink("d")})


def test_hard_link_to_the_root_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="no file of this layer"):
        jail.unpack({"x": hardlink("/")})


def test_hard_link_to_a_whiteout_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="no file of this layer"):
        jail.unpack({".wh.gone": "", "x": hardlink("gone")})


def test_hard_link_to_itself_keeps_the_file(jail: Jail) -> None:
    jail.unpack({"x": "content", "./x": hardlink("x")})
    assert (jail.root / "x").read_text() == "content"


def test_hard_link_over_the_directory_of_its_target_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="no file of this layer"):
        jail.unpack({"d/f": "content", "d": hardlink("d/f")})


def test_file_written_over_a_hard_link_does_not_change_the_other_name(jail: Jail) -> None:
    jail.unpack({"a": "first", "b": hardlink("a"), "./b": "second"})
    assert ((jail.root / "a").read_text(), (jail.root / "b").read_text()) == ("first", "second")


@pytest.mark.parametrize("kind", ["block", "char"])
def test_disk_and_memory_devices_are_refused(jail: Jail, kind: str) -> None:
    entry = Entry(kind="block", device=(8, 0)) if kind == "block" else Entry(kind="char", device=(1, 1))
    with pytest.raises(ImageInvalid, match="images may not contain it"):
        jail.unpack({"innocent": entry})


def test_devices_below_dev_are_left_out_and_counted(jail: Jail) -> None:
    info = jail.unpack(
        {"dev/sda": Entry(kind="block", device=(8, 0)), "dev/mem": Entry(kind="char", device=(1, 1))}
    )
    assert info.dropped_devices == 2
    assert list((jail.root / "dev").iterdir()) == []


def test_device_below_a_symlink_to_dev_counts_as_where_it_really_is(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="images may not contain it"):
        jail.unpack(
            {"real": directory(), "dev": symlink("real"), "dev/sda": Entry(kind="block", device=(8, 0))}
        )


def test_smuggled_whiteout_device_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="images may not contain it"):
        jail.unpack({"dev/x": Entry(kind="char", device=(0, 0))})


@pytest.mark.parametrize(
    "name", ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque"]
)
def test_attributes_overlayfs_obeys_are_refused(jail: Jail, name: str) -> None:
    with pytest.raises(ImageInvalid, match="images may not set"):
        jail.unpack({"d": directory(xattrs={name: b"y"})})


def test_attributes_over_the_limit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageInvalid, match="xattr_bytes"):
        limited(tmp_path, xattr_bytes=100).unpack({"f": Entry(xattrs={"user.x": b"x" * 200})})


def test_too_many_attributes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageInvalid, match="limit xattrs"):
        limited(tmp_path, xattrs=2).unpack({"f": Entry(xattrs={f"user.{n}": b"x" for n in range(3)})})


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh..."])
def test_whiteout_of_nothing_or_of_parents_is_refused(jail: Jail, name: str) -> None:
    with pytest.raises(ImageInvalid):
        jail.unpack({"a": directory(), name: ""})


def test_path_through_a_whiteout_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="through a whiteout"):
        jail.unpack({".wh.a/b": "x"})


def test_aufs_bookkeeping_is_left_out(jail: Jail) -> None:
    jail.unpack({".wh..wh.plnk/1.2": "x", ".wh..wh.aufs": "", "f": "1"})
    assert [path.name for path in jail.root.iterdir()] == ["f"]


def test_whiteout_through_a_symlink_stays_below_the_root(jail: Jail) -> None:
    jail.unpack({"outside": directory(), "x": symlink("/outside"), "x/.wh.secret": ""})
    assert stat.S_ISCHR((jail.root / "outside/secret").lstat().st_mode)


def test_root_entry_that_is_no_directory_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="root must be a directory"):
        jail.unpack({"./": symlink("/etc")})


def test_file_as_parent_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="is not a directory"):
        jail.unpack({"a": "file", "a/b": "x"})


def test_fifo_is_made_and_never_opened(jail: Jail) -> None:
    jail.unpack({"pipe": Entry(kind="fifo", mode=0o600), "./pipe": "replaced"})
    assert (jail.root / "pipe").read_text() == "replaced"


def test_depth_beyond_the_limit_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="path_depth"):
        jail.unpack({"/".join(["d"] * 129): "x"})


def test_depth_gained_through_symlinks_is_limited_too(jail: Jail) -> None:
    deep = "/".join(["d"] * 100)
    with pytest.raises(ImageInvalid, match="path_depth"):
        jail.unpack({deep: directory(), "s": symlink(deep), "s/" + "/".join(["e"] * 100): "x"})


def test_path_and_name_lengths_are_limited(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="name_bytes"):
        jail.unpack({"n" * 256: "x"})
    with pytest.raises(ImageInvalid, match="path_bytes"):
        jail.unpack({"n/" * 2100 + "x": "x"})


def test_number_of_entries_is_limited(tmp_path: Path) -> None:
    with pytest.raises(ImageInvalid, match="layer_entries"):
        limited(tmp_path, layer_entries=10).unpack({f"f{n}": "" for n in range(11)})


def test_sum_of_directory_paths_is_limited(tmp_path: Path) -> None:
    with pytest.raises(ImageInvalid, match="layer_path_bytes"):
        limited(tmp_path, layer_path_bytes=50).unpack({f"directory-{n}/f": "" for n in range(10)})


def test_extended_header_of_any_announced_size_is_not_read_into_memory(jail: Jail) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    with pytest.raises(ImageInvalid, match="pax_bytes"):
        jail.unpack_tar(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def test_endless_extended_headers_are_refused(jail: Jail) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 0
    with pytest.raises(ImageInvalid, match="in a row"):
        jail.unpack_tar(info.tobuf() * 100)


def test_gzip_bomb_is_stopped_by_the_ratio(tmp_path: Path) -> None:
    jail = limited(tmp_path, ratio_floor_bytes=1 << 20)
    tar = layer_tar({"zeros": bytes(8 << 20)})
    with pytest.raises(ImageInvalid, match="ratio"):
        jail.unpack_tar(tar, stored=gzip.compress(tar, 9))


def test_unpacked_size_is_limited(tmp_path: Path) -> None:
    with pytest.raises(ImageInvalid, match="unpacked_layer_bytes"):
        limited(tmp_path, unpacked_layer_bytes=100_000).unpack({"f": os.urandom(200_000)})


def test_compressed_size_is_limited(tmp_path: Path) -> None:
    with pytest.raises(ImageInvalid, match="compressed_layer_bytes"):
        limited(tmp_path, compressed_layer_bytes=100_000).unpack({"f": os.urandom(200_000)})


def sparse_tar(real_size: int, segments: str, data: bytes, name: str = "sparse") -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": name,
        "GNU.sparse.size": str(real_size),
        "GNU.sparse.map": segments,
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_holes_of_sparse_files_count_as_unpacked_bytes(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match=r"ratio|unpacked_layer_bytes"):
        jail.unpack_tar(sparse_tar(1 << 50, "0,4", b"data"))


@pytest.mark.parametrize("segments", ["8,4,0,4", "0,4,2,4", "0,99", "0,4,8,4,12", "x,4", "0,-4", "0,3"])
def test_impossible_sparse_maps_are_refused(jail: Jail, segments: str) -> None:
    with pytest.raises(ImageInvalid):
        jail.unpack_tar(sparse_tar(16, segments, b"datadata"))


def test_size_beyond_every_file_system_is_refused(jail: Jail) -> None:
    info = tarfile.TarInfo("f")
    info.size = 2**80
    with pytest.raises(ImageInvalid):
        jail.unpack_tar(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def test_global_headers_are_limited_together(jail: Jail) -> None:
    tar = b""
    for number in range(3):
        record = b"key%d=%s\n" % (number, b"x" * 500_000)
        body = b"%d %s" % (len(record) + 7, record)
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XGLTYPE, len(body)
        tar += info.tobuf() + body + bytes(-len(body) % 512) + tarfile.TarInfo(f"f{number}").tobuf()
    with pytest.raises(ImageInvalid, match="pax_bytes"):
        jail.unpack_tar(tar + bytes(1024))


def test_owner_that_means_no_change_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="not a user id"):
        jail.unpack({"f": Entry(uid=2**32 - 1)})


def test_nul_in_a_pax_path_is_refused(jail: Jail) -> None:
    record = b"path=ok\0/../../x\n"
    body = b"%d %s" % (len(record) + 3, record)
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    tar = info.tobuf() + body.ljust(512, b"\0") + tarfile.TarInfo("f").tobuf() + bytes(1024)
    with pytest.raises(ImageInvalid):
        jail.unpack_tar(tar)


def test_wrong_header_checksum_is_refused(jail: Jail) -> None:
    tar = bytearray(layer_tar({"f": "x"}))
    tar[0] ^= 1
    with pytest.raises(ImageInvalid, match="checksum"):
        jail.unpack_tar(bytes(tar))


@pytest.mark.parametrize("cut", [100, 512, 700, 1024])
def test_truncated_tar_is_refused(jail: Jail, cut: int) -> None:
    tar = layer_tar({"f": b"x" * 1000})[:cut]
    if cut == 512:
        tar = tar[:500]
    with pytest.raises(ImageInvalid, match="ends within"):
        jail.unpack_tar(tar)


def test_wrong_diff_id_is_refused(jail: Jail) -> None:
    with pytest.raises(ImageInvalid, match="diff_id"):
        jail.unpack_tar(layer_tar({"f": "x"}), stored=layer_tar({"f": "y"}))


def test_limits_are_named_in_the_error() -> None:
    limits = ImageLimits()
    with pytest.raises(ImageInvalid) as caught:
        check(limits, "layers", 129, "the number of layers")
    assert caught.value.details == {"limit": "layers", "maximum": 128}
