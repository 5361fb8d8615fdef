"""The main process: its start, its output, its end."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from midge.guest.protocol import FrameType
from tests.integration.init.guest import ContainerGuest

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(300)]

FLOOD_DEADLINE_S = 200.0  # for 100 MB, on a busy host


def test_exit_code_and_output_are_reported(guest: ContainerGuest) -> None:
    guest.start(["sh", "-c", "echo out; echo err >&2; exit 7"])
    report = guest.exit()
    assert (report["exit_code"], report["signal"], report["error"]) == (7, None, None)
    assert guest.output == {"stdout": b"out\n", "stderr": b"err\n"}
    assert guest.wait() == 7


def test_a_signal_ends_the_main_process(guest: ContainerGuest) -> None:
    guest.start(["sleep", "1000"])
    guest.send(FrameType.SIGNAL, {"signal": signal.SIGTERM})
    report = guest.exit()
    assert (report["exit_code"], report["signal"]) == (None, signal.SIGTERM)
    assert guest.wait() == 128 + signal.SIGTERM


def test_a_handled_signal_is_delivered(guest: ContainerGuest) -> None:
    guest.start(["sh", "-c", "trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done"])
    guest.until(lambda: b"ready" in guest.output["stdout"], "the trap")
    guest.send(FrameType.SIGNAL, {"signal": signal.SIGUSR1})
    assert guest.exit()["exit_code"] == 3
    assert guest.output["stdout"] == b"ready\ngot\n"


def test_a_signal_for_the_init_of_a_container_reaches_the_main_process(guest: ContainerGuest) -> None:
    guest.start(["sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"])
    guest.until(lambda: b"ready" in guest.output["stdout"], "the trap")
    os.kill(guest.init_pid(), signal.SIGTERM)
    assert guest.exit()["exit_code"] == 9


@pytest.mark.parametrize(
    ("members", "code", "words"),
    [
        ({"argv": ["no-such-program"]}, 127, 'command not found: "no-such-program"'),
        ({"argv": ["/bin/nothing"]}, 127, "command not found"),
        ({"argv": ["/etc/passwd"]}, 126, "permission denied"),
        ({"argv": ["/etc/passwd/x"]}, 126, "not a directory"),
        ({"argv": ["/bad-interpreter"]}, 126, "interpreter is missing"),
        ({"argv": ["/no-format"]}, 126, "not a program"),
        ({"argv": []}, 125, "no command"),
        ({"argv": ["true"], "user": "ghost"}, 125, 'unknown user "ghost"'),
        ({"argv": ["true"], "user": "app:ghosts"}, 125, 'unknown group "ghosts"'),
        ({"argv": ["true"], "cwd": "/etc/passwd/x"}, 125, "working directory"),
        ({"argv": ["true"], "limits": {"nonsense": 1}}, 125, 'unknown limit "nonsense"'),
    ],
)
def test_what_cannot_be_started_exits_with_a_reason(
    guest: ContainerGuest, members: dict[str, Any], code: int, words: str
) -> None:
    for name, text in (("bad-interpreter", "#!/no/such\n"), ("no-format", "text\n")):
        (guest.root / name).write_text(text)
        (guest.root / name).chmod(0o755)
    guest.hello()
    guest.configure(members.pop("argv"), **members)
    guest.send(FrameType.RUN)
    assert guest.expect(FrameType.ERROR)["during"] == "run"
    report = guest.exit()
    assert report["exit_code"] == code
    assert words in report["error"]
    assert words.encode() in guest.output["stderr"]
    assert guest.output["stderr"].count(b"\n") == 1
    assert guest.wait() == code


def test_user_groups_limits_and_directory_are_the_machines(guest: ContainerGuest) -> None:
    guest.start(
        ["sh", "-c", "id -u; id -g; id -G; pwd; ulimit -n"],
        image_user="app",
        cwd="/made/for/it",
        limits={"nofile": 77},
    )
    assert guest.exit()["exit_code"] == 0
    shown = guest.output["stdout"].decode().splitlines()
    assert shown == ["1000", "1001", "1001 10 29", "/made/for/it", "77"]


def test_the_environment_is_as_given_with_what_is_absent_added(guest: ContainerGuest) -> None:
    guest.start(["env"], image_user="app", env=[["B", "2"], ["A", "1 x"]])
    guest.exit()
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert guest.output["stdout"].decode().splitlines() == ["B=2", "A=1 x", path, "HOME=/home/app"]


def test_the_child_starts_clean(guest: ContainerGuest) -> None:
    guest.start(
        ["sh", "-c", "ls /proc/self/fd; grep -E '^Sig(Blk|Ign)' /proc/self/status; readlink /proc/self/fd/0"]
    )
    guest.exit()
    lines = guest.output["stdout"].decode().split("\n")
    assert lines[:4] == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
    assert "SigBlk:\t0000000000000000" in lines
    assert "SigIgn:\t0000000000000000" in lines
    assert "/dev/null" in lines


def test_a_terminal_is_the_programs_controlling_one(guest: ContainerGuest) -> None:
    guest.start(["sh", "-c", "tty; stty size; echo $TERM; echo x > /dev/tty"], tty=True)
    guest.exit()
    assert guest.output["stdout"] == b"/dev/pts/0\r\n24 80\r\nxterm-256color\r\nx\r\n"


def test_no_byte_of_large_interleaved_output_is_lost(guest: ContainerGuest, root: Path) -> None:
    size_mb = 50
    data = os.urandom(1_048_576)
    (root / "data").write_bytes(data)
    script = f"for i in $(seq {size_mb}); do cat /data; cat /data >&2; done"
    guest.start(["sh", "-c", script])
    report = guest.expect(FrameType.EXIT, deadline_s=FLOOD_DEADLINE_S)
    assert report["exit_code"] == 0
    expected = hashlib.sha256(data * size_mb).hexdigest()
    for name in ("stdout", "stderr"):
        assert hashlib.sha256(guest.output[name]).hexdigest() == expected


def test_output_waits_for_a_host_that_does_not_read(guest: ContainerGuest) -> None:
    guest.start(["sh", "-c", "dd if=/dev/zero bs=1M count=8 2>/dev/null; echo done >/state"])
    state = guest.root / "state"
    with pytest.raises(subprocess.TimeoutExpired):
        guest.process.wait(0.3)
    assert not state.exists()
    assert guest.exit()["exit_code"] == 0
    assert len(guest.output["stdout"]) == 8 * 1_048_576
    assert state.exists()


def test_output_of_surviving_grandchildren_is_not_waited_for(guest: ContainerGuest) -> None:
    guest.start(
        ["sh", "-c", "(echo child; echo >/said; sleep 1000) & until [ -e /said ]; do :; done; echo parent"]
    )
    assert guest.exit()["exit_code"] == 0
    assert guest.output["stdout"] == b"child\nparent\n"
    assert guest.wait() == 0


def test_orphans_are_reaped(guest: ContainerGuest) -> None:
    guest.start(["sh", "-c", "for i in $(seq 50); do (sleep 0.2 &); done; echo done; exec sleep 1000"])
    guest.until(lambda: b"done" in guest.output["stdout"], "the orphans")
    guest.eventually(lambda: guest.commands() == ["/midge-init --container", "sleep 1000"], "their end")


def test_exit_is_sent_again_to_a_new_session_until_it_is_acknowledged(guest: ContainerGuest) -> None:
    guest.start(["sh", "-c", "exit 5"])
    assert guest.expect(FrameType.EXIT)["exit_code"] == 5
    assert guest.hello("another")["state"] == "exited"
    assert guest.exit()["exit_code"] == 5
    assert guest.wait() == 5


def test_a_container_ends_when_its_host_is_gone(guest: ContainerGuest) -> None:
    guest.start(["sleep", "1000"])
    guest.sock.close()
    assert guest.wait() == 0
