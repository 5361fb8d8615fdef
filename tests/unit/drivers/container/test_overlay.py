"""The layers of a container's root."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from midge.drivers.container import overlay
from midge.drivers.container.overlay import Layers
from midge.errors import DriverError, ImageNotFound, OutOfSpace


@pytest.fixture
def lower(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "top", tmp_path / "bottom"]
    for path in paths:
        path.mkdir()
    paths[0].chmod(0o751)
    return paths


def test_the_writable_layer_is_blank_at_each_start(tmp_path: Path, lower: list[Path]) -> None:
    layers = Layers(tmp_path / "machines" / "m")
    layers.make(lower, persist=False)
    (layers.upper / "file").touch()
    layers.make(lower, persist=False)
    assert list(layers.upper.iterdir()) == []


def test_a_persistent_layer_is_kept(tmp_path: Path, lower: list[Path]) -> None:
    layers = Layers(tmp_path / "machines" / "m")
    layers.make(lower, persist=True)
    (layers.upper / "file").touch()
    layers.make(lower, persist=True)
    assert (layers.upper / "file").exists()
    layers.make(lower, persist=False)
    assert list(layers.upper.iterdir()) == []
    layers.discard()
    layers.discard()
    assert not layers.folder.exists()


def test_a_layer_made_anew_is_another(lower: list[Path]) -> None:
    before = overlay.lower(lower)
    assert before.is_there()
    lower[0].rename(lower[0].with_name("before"))
    assert not before.is_there()
    lower[0].mkdir()
    assert not before.is_there()
    assert overlay.lower(lower).is_there()


def test_layers_that_are_gone_are_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match="nowhere is gone"):
        overlay.lower([tmp_path / "nowhere"])


def test_the_root_has_the_images_mode(tmp_path: Path, lower: list[Path]) -> None:
    layers = Layers(tmp_path / "machines" / "m")
    layers.make(lower, persist=False)
    assert stat.S_IMODE(layers.upper.stat().st_mode) == 0o751


def test_a_missing_layer_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match="gone"):
        Layers(tmp_path / "m").make([tmp_path / "gone"], persist=False)


def test_a_full_disk_is_told_apart(
    tmp_path: Path, lower: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OutOfSpace):
        Layers(tmp_path / "m").make(lower, persist=False)


def test_options_name_the_layers_topmost_first(lower: list[Path]) -> None:
    options = Layers(Path("/m")).options([Path("/l/a"), Path("/l/b")], persist=True)
    assert options == "lowerdir=/l/a:/l/b,upperdir=/m/upper,workdir=/m/work"
    assert Layers(Path("/m")).options([Path("/l/a")], persist=False).endswith(",volatile")


def test_paths_are_escaped() -> None:
    assert overlay.escape(Path("/a:b,c\\d")) == "/a\\:b\\,c\\\\d"


class RefusingSyscalls:
    """mount and umount that fail with one errno."""

    def __init__(self, number: int) -> None:
        self._number = number

    def mount(self, *_: object) -> None:
        raise OSError(self._number, "refused")

    def umount(self, *_: object) -> None:
        raise OSError(self._number, "refused")


def test_what_is_not_mounted_need_not_be_unmounted() -> None:
    overlay.unmount(Path("/x"), RefusingSyscalls(errno.EINVAL))  # type: ignore[arg-type]  # two of its calls
    with pytest.raises(OSError, match="refused"):
        overlay.unmount(Path("/x"), RefusingSyscalls(errno.EPERM))  # type: ignore[arg-type]  # the same


def test_a_mount_that_fails_says_what_to_look_for() -> None:
    with pytest.raises(DriverError) as caught:
        overlay.mount(Path("/x"), "", RefusingSyscalls(errno.EINVAL))  # type: ignore[arg-type]  # the same
    assert "kernel log" in caught.value.hint
