"""The data directory: layout, lock, tokens, what tells others where we are."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from midge.central.store import Central
from midge.errors import Conflict
from midge.server.discovery import ensure_root_token, write_server_file
from midge.server.lock import DataDirLock
from midge.server.notify import notify
from midge.server.paths import LAYOUT_VERSION, DataDirUnusable, LayoutTooNew, Paths
from tests.deadlines import PATIENCE_S


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path / "data", str(tmp_path / "run"))
    made.make()
    return made


def test_secrets_are_for_nobody_else(paths: Paths) -> None:
    assert mode(paths.central_db) == 0o600
    assert mode(paths.host_db) == 0o600
    for folder in (paths.images, paths.kernels, paths.templates, paths.machines, paths.logs, paths.run_dir):
        assert folder.is_dir()


def test_making_it_again_changes_nothing(paths: Paths) -> None:
    paths.central_db.write_bytes(b"x")
    paths.make()
    assert paths.central_db.read_bytes() == b"x"


@pytest.mark.parametrize("content", [f"{LAYOUT_VERSION + 1}\n", "what?"])
def test_a_layout_of_the_future_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "VERSION").write_text(content)
    with pytest.raises(LayoutTooNew):
        Paths(tmp_path).make()
    assert not (tmp_path / "central.db").exists()


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("/dev/null/x", "not a directory"),
        ("/proc/x", "no such file or directory"),
        ("plain", "it is a file"),
    ],
)
def test_a_data_directory_that_cannot_be_one_is_refused(tmp_path: Path, folder: str, why: str) -> None:
    (tmp_path / "plain").write_text("")
    wanted = tmp_path / folder
    with pytest.raises(DataDirUnusable) as caught:
        Paths(wanted, str(tmp_path / "run")).make()
    assert str(caught.value) == f"{wanted} cannot be the data directory: {why}"
    assert "--data-dir" in caught.value.hint


def test_a_run_directory_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(DataDirUnusable, match="plain cannot be the run directory"):
        Paths(tmp_path / "data", str(tmp_path / "plain")).make()


def test_nothing_empty_stays_of_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midge.server.paths.SYSTEM_RUN_DIR", tmp_path / "run")
    made = Paths(tmp_path / "data")
    made.make()
    (made.run_dir / "m" / "running" / "still-empty").mkdir(parents=True)
    (made.run_dir / "mock" / "run").mkdir(parents=True)
    made.tidy_run_dir()
    assert [entry.name for entry in made.run_dir.iterdir()] == ["m"]
    (made.run_dir / "m" / "running" / "still-empty").rmdir()
    made.tidy_run_dir()
    assert not made.run_dir.exists()
    made.tidy_run_dir()


def test_a_run_directory_somebody_chose_stays(paths: Paths) -> None:
    (paths.run_dir / "m").mkdir()
    paths.tidy_run_dir()
    assert list(paths.run_dir.iterdir()) == []


def test_socket_paths_are_short_for_root(tmp_path: Path) -> None:
    long = Paths(tmp_path / ("d" * 100))
    if os.geteuid() == 0:
        assert len(str(long.run_dir)) < 40
        assert long.run_dir != Paths(tmp_path).run_dir
    else:
        assert long.run_dir == long.data_dir / "run"


def test_a_second_server_is_refused_by_name(paths: Paths) -> None:
    with DataDirLock(paths.lock), pytest.raises(Conflict) as caught:
        DataDirLock(paths.lock).acquire()
    assert f"process {os.getpid()}" in str(caught.value)
    assert str(paths.data_dir) in str(caught.value)
    DataDirLock(paths.lock).acquire()


def test_the_lock_ends_with_its_holder(paths: Paths) -> None:
    child = os.fork()
    if child == 0:
        DataDirLock(paths.lock).acquire()
        os._exit(0)
    os.waitpid(child, 0)
    with DataDirLock(paths.lock), paths.lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_server_json_says_where_we_are(paths: Paths, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_server_file(paths, "http://127.0.0.1:1", "local")
    finally:
        os.umask(before)
    content = json.loads(paths.server_json.read_text())
    assert content["url"] == "http://127.0.0.1:1"
    assert content["pid"] == os.getpid()
    assert mode(paths.server_json) == 0o644
    assert not list(paths.data_dir.glob(".server.json*"))


@pytest.mark.anyio
async def test_the_root_token_is_made_once(paths: Paths) -> None:
    async with Central(paths.central_db) as central:
        first, new = await ensure_root_token(paths, central.tokens)
        assert new
        assert mode(paths.token) == 0o600
        assert paths.token.read_text().strip() == first
        assert await ensure_root_token(paths, central.tokens) == (first, False)


@pytest.mark.anyio
@pytest.mark.parametrize("damage", ["gone", "empty", "other", "binary"])
async def test_a_lost_root_token_is_replaced_and_the_old_one_ends(paths: Paths, damage: str) -> None:
    async with Central(paths.central_db) as central:
        first, _ = await ensure_root_token(paths, central.tokens)
        paths.token.unlink()
        if damage != "gone":
            content = {"empty": b"", "other": b"mdg_000000000000_x\n", "binary": b"\xff\xfe"}[damage]
            paths.token.write_bytes(content)
        second, new = await ensure_root_token(paths, central.tokens)
        assert new and second != first
        assert await central.tokens.verify(first) is None
        assert await central.tokens.verify(second) is not None
        assert mode(paths.token) == 0o600


@pytest.mark.parametrize("abstract", [True, False])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        path = str(tmp_path / "notify")
        listener.bind("\0" + path if abstract else path)
        listener.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + path if abstract else path)
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_nobody_to_tell_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")
