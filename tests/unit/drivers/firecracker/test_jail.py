"""Jails, and what a VMM that was taken over may have put there."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from midge.drivers.firecracker import jail as jails
from midge.drivers.firecracker.jail import Jail, check_base, leftovers
from midge.errors import DriverError, NotSupported
from midge.sys.syscalls import MS_BIND, MS_RDONLY, LinuxSyscalls

OWN = os.geteuid()


class Mounts(LinuxSyscalls):
    """Writes mounts down."""

    def __init__(self) -> None:
        super().__init__()
        self.flags: list[int] = []

    def mount(
        self, source: str | Path, target: str | Path, fstype: str = "", flags: int = 0, data: str = ""
    ) -> None:
        self.flags.append(flags)


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[Jail]:
    jail = Jail(tmp_path, "firecracker", "abc", OWN)
    jail.make()
    yield jail


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"image")
    path.chmod(0o444)
    return path


def test_layout_is_the_jailers(jail: Jail, tmp_path: Path) -> None:
    assert jail.root == tmp_path / "firecracker" / "abc" / "root"
    assert jail.api_socket == jail.root / "run" / "api.sock"
    assert jail.pid_file == jail.root / "firecracker.pid"
    assert {path.name for path in jail.root.iterdir()} == {"run", "save"}
    for folder in (jail.folder, jail.root, jail.root / "run", jail.root / "save"):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.root
@pytest.mark.skipif(OWN != 0, reason="needs root")
def test_a_jail_belongs_to_its_vmm_and_the_way_there_to_root(tmp_path: Path) -> None:
    jail = Jail(tmp_path, "firecracker", "abc", 12345)
    jail.make()
    assert [path.stat().st_uid for path in (jail.folder, jail.root, jail.root / "run")] == [0, 12345, 12345]
    os.close(jail.writable_copy_target("memory"))
    assert (jail.root / "save" / "memory").stat().st_uid == 12345
    jail.take("memory", tmp_path / "memory")
    assert (tmp_path / "memory").stat().st_uid == 0
    jail.remove()


def test_making_one_anew_removes_what_was_there(jail: Jail, image: Path) -> None:
    jail.add(image, "lower")
    jail.make()
    assert not (jail.root / "lower").exists()
    assert image.read_bytes() == b"image"


def test_files_are_shared_and_not_copied(jail: Jail, image: Path) -> None:
    jail.add(image, "lower")
    assert (jail.root / "lower").stat().st_ino == image.stat().st_ino


def test_files_of_another_file_system_are_bound_read_only(tmp_path: Path, image: Path) -> None:
    mounts = Mounts()
    jail = Jail(tmp_path, "firecracker", "abc", OWN, mounts)
    jail.make()
    other = Path("/proc/version")
    jail.add(other, "lower")
    assert mounts.flags[0] == MS_BIND
    assert mounts.flags[1] & MS_RDONLY


@pytest.mark.root
@pytest.mark.skipif(OWN != 0, reason="needs root")
def test_bound_files_go_with_the_jail_and_stay_where_they_were(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at hand")
    jail = Jail(tmp_path, "firecracker", "a b", OWN)
    jail.make()
    with tempfile.NamedTemporaryFile(dir=memory) as source:
        source.write(b"image")
        source.flush()
        Path(source.name).chmod(0o444)
        jail.add(Path(source.name), "lower")
        assert (jail.root / "lower").read_bytes() == b"image"
        with pytest.raises(OSError, match="Read-only"):
            (jail.root / "lower").open("r+b")
        jail.remove()
        assert not jail.folder.exists()
        assert Path(source.name).read_bytes() == b"image"


def test_file_the_vmm_could_not_read_is_refused_at_once(tmp_path: Path, image: Path) -> None:
    jail = Jail(tmp_path, "firecracker", "abc", OWN + 1)
    (jail.root).mkdir(parents=True)
    image.chmod(0o600)
    with pytest.raises(DriverError, match="cannot be read") as raised:
        jail.add(image, "lower")
    assert raised.value.hint == f"chmod a+r {image}"


def test_writable_file_of_another_file_system_is_refused(jail: Jail) -> None:
    with pytest.raises(NotSupported, match="different file systems"):
        jail.add_writable(Path("/proc/version"), "upper")


def test_takes_what_the_vmm_has_written(jail: Jail, tmp_path: Path) -> None:
    (jail.root / "save" / "memory").write_bytes(b"memory")
    if OWN != 0:
        pytest.skip("only root gives files away")
    jail.take("memory", tmp_path / "taken")
    assert (tmp_path / "taken").read_bytes() == b"memory"
    assert (tmp_path / "taken").stat().st_mode & 0o777 == 0o444


def test_takes_no_link(jail: Jail, tmp_path: Path, image: Path) -> None:
    (jail.root / "save" / "memory").symlink_to(image)
    with pytest.raises(OSError, match="symbolic"):
        jail.take("memory", tmp_path / "taken")


def test_takes_no_second_name_of_another_file(jail: Jail, tmp_path: Path, image: Path) -> None:
    (jail.root / "save" / "memory").hardlink_to(image)
    with pytest.raises(DriverError, match="not what a VMM writes"):
        jail.take("memory", tmp_path / "taken")


def test_takes_no_pipe_and_does_not_wait_for_it(jail: Jail, tmp_path: Path) -> None:
    os.mkfifo(jail.root / "save" / "memory")
    with pytest.raises(DriverError, match="not what a VMM writes"):
        jail.take("memory", tmp_path / "taken")


def test_does_not_follow_a_folder_that_was_made_a_link(jail: Jail, tmp_path: Path) -> None:
    (jail.root / "save").rmdir()
    (jail.root / "save").symlink_to(tmp_path)
    (tmp_path / "memory").write_bytes(b"the host's")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        jail.take("memory", tmp_path / "taken")
    assert (tmp_path / "memory").exists()


def test_connects_however_long_the_path_is(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    jail = Jail(deep, "firecracker", "abc", OWN)
    jail.make()
    with socket.socket(socket.AF_UNIX) as listener:
        fd = os.open(jail.root / "run", os.O_PATH)
        listener.bind(f"/proc/self/fd/{fd}/api.sock")
        os.close(fd)
        listener.listen()
        with jail.connect():
            listener.accept()[0].close()


def test_connects_to_no_socket_of_somebody_else(jail: Jail, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        fd = os.open(tmp_path, os.O_PATH)
        listener.bind(f"/proc/self/fd/{fd}/host.sock")
        os.close(fd)
        listener.listen()
        jail.api_socket.symlink_to(tmp_path / "host.sock")
        with pytest.raises(DriverError, match="not the VMM's socket"):
            jail.connect()


def test_removing_follows_no_links_and_is_repeatable(jail: Jail, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").touch()
    (jail.root / "dev").symlink_to(keep)
    jail.remove()
    jail.remove()
    assert (keep / "file").exists()
    assert leftovers(tmp_path, "firecracker") == []


def test_base_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    base = tmp_path / ("x" * 100)
    base.mkdir()
    with pytest.raises(NotSupported, match="bytes too long"):
        check_base(base, "firecracker", 14)


def test_base_that_just_fits_makes_sockets_that_fit() -> None:
    tail = len("/firecracker/") + 14 + len("/root/run/api.sock")
    base = Path("/" + "x" * (jails.SOCKET_PATH_MAX - tail - 1))
    jail = Jail(base, "firecracker", "a" * 14, 1)
    assert len(str(jail.api_socket)) == jails.SOCKET_PATH_MAX


def test_base_without_device_nodes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flags:
        f_flag = os.ST_NODEV

    monkeypatch.setattr(jails.os, "statvfs", lambda path: Flags)
    with pytest.raises(NotSupported, match="mounted with nodev"):
        check_base(Path("/d"), "firecracker", 14)
