from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from midge.net import netns
from midge.sys.fake import RecordingSyscalls
from midge.sys.syscalls import LINUX, LinuxSyscalls, Syscalls


def test_a_refused_call_says_what_it_was_about(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        LINUX.umount(tmp_path / "nowhere")
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)


def test_entering_a_file_that_is_no_namespace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="setns"):
            LINUX.setns(fd)
    finally:
        os.close(fd)


def test_a_signal_reaches_exactly_the_process_of_the_handle() -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    handle = LINUX.pidfd_open(pid)
    try:
        LINUX.pidfd_send_signal(handle, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            LINUX.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)


def test_the_fake_records_and_fails_on_order() -> None:
    fake = RecordingSyscalls(failures={"umount": [0, errno.EBUSY]})
    calls: Syscalls = fake
    calls.umount("/a")
    with pytest.raises(OSError, match="/b") as caught:
        calls.umount("/b", 2)
    assert caught.value.errno == errno.EBUSY
    assert fake.calls == [("umount", "/a", 0), ("umount", "/b", 2)]


def test_fake_and_real_calls_have_the_same_names() -> None:
    def verbs(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert verbs(LinuxSyscalls) == verbs(Syscalls) <= verbs(RecordingSyscalls)


def test_removing_a_namespace_that_lost_its_mount_removes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns, "NETNS_DIR", tmp_path)
    (tmp_path / "mg-abcdef-1").touch()
    netns.remove("mg-abcdef-1", RecordingSyscalls(failures={"umount": [errno.EINVAL]}))
    assert netns.names() == []


def test_a_namespace_whose_mount_fails_leaves_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns, "NETNS_DIR", tmp_path)
    fake = RecordingSyscalls(failures={"mount": [0, errno.EPERM]})
    with pytest.raises(PermissionError), netns.created("mg-abcdef-1", fake):
        pytest.fail("the block ran")
    assert fake.names() == ["mount", "unshare", "mount", "setns", "umount"]
    assert netns.names() == []


def test_a_namespace_that_exists_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "NETNS_DIR", tmp_path)
    (tmp_path / "mg-abcdef-1").touch()
    fake = RecordingSyscalls()
    with pytest.raises(FileExistsError), netns.created("mg-abcdef-1", fake):
        pytest.fail("the block ran")
    assert netns.names() == ["mg-abcdef-1"]
    assert "unshare" not in fake.names()
