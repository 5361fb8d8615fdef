from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
from pathlib import Path

from midge.sys.leaks import HostState, diff, snapshot

EMPTY = HostState(**{field.name: frozenset() for field in dataclasses.fields(HostState)})


def test_only_what_is_new_is_a_leak() -> None:
    before = dataclasses.replace(EMPTY, netns=frozenset({"old", "gone"}))
    after = dataclasses.replace(EMPTY, netns=frozenset({"old", "new"}), mount=frozenset({"/x (tmpfs)"}))
    assert diff(before, after) == ["netns: new", "mount: /x (tmpfs)"]


def test_a_quiet_host_has_no_leaks(tmp_path: Path) -> None:
    marker = tmp_path.name
    assert diff(snapshot([marker], [tmp_path]), snapshot([marker], [tmp_path])) == []


def test_processes_files_sockets_and_descriptors_are_seen(tmp_path: Path) -> None:
    marker = f"leak-{os.getpid()}-{id(tmp_path)}"
    before = snapshot([marker], [tmp_path])
    process = subprocess.Popen(["/bin/sleep", "60"], env={"MIDGE_TEST": marker})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "api.sock"))
        found = diff(before, snapshot([marker], [tmp_path]))
    process.kill()
    process.wait()
    assert any(leak.startswith(f"process: {process.pid} ") and "sleep 60" in leak for leak in found)
    assert f"file: {tmp_path / 'api.sock'}" in found
    assert any(leak.startswith("descriptor: socket #") for leak in found)
    (tmp_path / "api.sock").unlink()
    assert diff(before, snapshot([marker], [tmp_path])) == []


def test_things_of_others_are_not_counted(tmp_path: Path) -> None:
    before = snapshot(["no-such-marker"])
    process = subprocess.Popen(["/bin/sleep", "60"])
    try:
        assert [
            leak for leak in diff(before, snapshot(["no-such-marker"])) if leak.startswith("process")
        ] == []
    finally:
        process.kill()
        process.wait()
