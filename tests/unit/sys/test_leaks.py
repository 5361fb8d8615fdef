from __future__ import annotations

import dataclasses
import gc
import os
import socket
import subprocess
from pathlib import Path

from midge.sys.leaks import HostState, diff, snapshot

EMPTY = HostState(**{field.name: frozenset() for field in dataclasses.fields(HostState)})


def running(env: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that runs its program already: before, it has no command line to be known by."""
    process = subprocess.Popen(["/bin/cat", "-"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    assert process.stdout.read(1) == b"x"
    return process


def ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_only_what_is_new_is_a_leak() -> None:
    before = dataclasses.replace(EMPTY, netns=frozenset({"old", "gone"}))
    after = dataclasses.replace(EMPTY, netns=frozenset({"old", "new"}), mount=frozenset({"/x (tmpfs)"}))
    assert diff(before, after) == ["netns: new", "mount: /x (tmpfs)"]


def test_a_quiet_host_has_no_leaks(tmp_path: Path) -> None:
    marker = tmp_path.name
    assert diff(snapshot([marker], [tmp_path]), snapshot([marker], [tmp_path])) == []


def test_processes_files_sockets_and_descriptors_are_seen(tmp_path: Path) -> None:
    marker = f"leak-{os.getpid()}-{id(tmp_path)}"
    gc.collect()  # or sockets of other tests may be closed meanwhile, and are no longer counted
    before = snapshot([marker], [tmp_path])
    process = running({"MIDGE_TEST": marker})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "api.sock"))
        found = diff(before, snapshot([marker], [tmp_path]))
    ended(process)
    assert any(leak.startswith(f"process: {process.pid} ") and "cat -" in leak for leak in found)
    assert f"file: {tmp_path / 'api.sock'}" in found
    assert any(leak.startswith("descriptor: socket #") for leak in found)
    (tmp_path / "api.sock").unlink()
    assert diff(before, snapshot([marker], [tmp_path])) == []


def test_things_of_others_are_not_counted(tmp_path: Path) -> None:
    before = snapshot(["no-such-marker"])
    process = running({})
    try:
        assert [
            leak for leak in diff(before, snapshot(["no-such-marker"])) if leak.startswith("process")
        ] == []
    finally:
        ended(process)
