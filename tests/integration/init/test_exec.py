"""Further processes beside the main one."""

from __future__ import annotations

import hashlib
import os
import signal

import pytest

from midge.guest import protocol as p
from midge.guest.protocol import FrameType
from tests.integration.init.guest import ContainerGuest

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(300)]


UNTIL_TOLD = "until [ -e /tmp/go ]; do sleep 0.05; done"
TIME_S = 5.0  # for a shell to have begun, on a busy host


@pytest.fixture
def machine(guest: ContainerGuest) -> ContainerGuest:
    guest.start(
        ["sleep", "1000"], image_user="app", cwd="/home/app", env=[["A", "machine"], ["B", "machine"]]
    )
    return guest


def test_streams_are_separate_and_the_code_comes_last(machine: ContainerGuest) -> None:
    machine.exec(1, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    report = machine.exec_exit(1)
    assert report == {"exit_code": 3, "signal": None, "timed_out": False, "oom_killed": False}
    assert machine.exec_output[1] == {"stdout": b"out\n", "stderr": b"err\n"}


def test_it_runs_as_the_machine_does(machine: ContainerGuest) -> None:
    machine.exec(1, ["sh", "-c", "id -u; pwd; echo $A $B $HOME"], env={"B": "exec"})
    machine.exec_exit(1)
    assert machine.exec_output[1]["stdout"] == b"1000\n/home/app\nmachine exec /home/app\n"


def test_user_and_directory_can_be_others(machine: ContainerGuest) -> None:
    machine.exec(1, ["sh", "-c", "id -u; id -g; pwd; echo $HOME"], user="0:29", cwd="/tmp")
    machine.exec_exit(1)
    assert machine.exec_output[1]["stdout"] == b"0\n29\n/tmp\n/root\n"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"argv": ["no-such"]}, "not_found"),
        ({"argv": ["/etc/passwd"]}, "not_executable"),
        ({"argv": ["true"], "user": "ghost"}, "failed"),
        ({"argv": ["true"], "cwd": "/nowhere"}, "failed"),
        ({"argv": "true"}, "bad_message"),
    ],
)
def test_what_cannot_be_started_is_an_error(
    machine: ContainerGuest, members: dict[str, object], code: str
) -> None:
    machine.send(FrameType.EXEC, members, 1)
    error = machine.expect(FrameType.ERROR, stream=1)
    assert (error["code"], error["during"]) == (code, "exec")


def test_input_is_streamed_until_its_end(machine: ContainerGuest) -> None:
    data = os.urandom(3_000_000)
    machine.exec(1, ["sha256sum"], stdin=True)
    machine.stdin(1, data, eof=True)
    assert machine.exec_exit(1)["exit_code"] == 0
    assert machine.exec_output[1]["stdout"].split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_input_nobody_reads_is_no_obstacle(machine: ContainerGuest) -> None:
    machine.exec(1, ["sh", "-c", f"exec <&-; {UNTIL_TOLD}"], stdin=True)
    machine.stdin(1, bytes(2_000_000), eof=True)
    (machine.root / "tmp/go").touch()
    assert machine.exec_exit(1)["exit_code"] == 0


def test_without_input_there_is_none(machine: ContainerGuest) -> None:
    machine.exec(1, ["cat"])
    assert machine.exec_exit(1)["exit_code"] == 0


def test_more_input_than_granted_is_refused(machine: ContainerGuest) -> None:
    machine.exec(1, ["sleep", "1000"], stdin=True)
    for _ in range(8):
        machine.send_raw(FrameType.STDIN, 1, bytes(p.FRAME_PAYLOAD_MAX))
    error = machine.expect(FrameType.ERROR, stream=1)
    assert (error["code"], error["during"]) == ("window", "stdin")


def test_output_stops_at_the_window(machine: ContainerGuest) -> None:
    machine.grant_output = False
    machine.exec(1, ["sh", "-c", "dd if=/dev/zero bs=64k count=16 2>/dev/null"])
    machine.until(lambda: len(machine.exec_output[1]["stdout"]) == p.WINDOW_BYTES, "a full window")
    # Other execs and answers are not held up.
    machine.exec(2, ["echo", "hi"])
    machine.exec_exit(2)
    assert len(machine.exec_output[1]["stdout"]) == p.WINDOW_BYTES
    machine.sock.sendall(p.encode_window(FrameType.WINDOW, 1, 10_000_000))
    assert machine.exec_exit(1)["exit_code"] == 0
    assert len(machine.exec_output[1]["stdout"]) == 16 * 65_536


def test_a_terminal_echoes_and_resizes(machine: ContainerGuest) -> None:
    machine.exec(1, ["sh"], tty=True, rows=30, cols=100)
    machine.stdin(1, b"stty size; tty; echo $TERM\n")
    machine.until(lambda: b"xterm-256color" in machine.exec_output[1]["stdout"], "TERM")
    assert b"30 100" in machine.exec_output[1]["stdout"]
    machine.send(FrameType.RESIZE, {"rows": 50, "cols": 132}, 1)
    machine.stdin(1, b"stty size\n")
    machine.until(lambda: b"50 132" in machine.exec_output[1]["stdout"], "the new size")
    machine.stdin(1, b"exit 5\n")
    assert machine.exec_exit(1)["exit_code"] == 5


def test_the_end_of_input_of_a_terminal_is_what_its_program_takes_for_it(machine: ContainerGuest) -> None:
    machine.exec(1, ["cat"], tty=True)
    machine.stdin(1, b"line\n", eof=True)
    assert machine.exec_exit(1)["exit_code"] == 0
    assert machine.exec_output[1]["stdout"] == b"line\r\nline\r\n"


def test_keys_of_a_terminal_become_signals(machine: ContainerGuest) -> None:
    machine.exec(1, ["sh", "-c", "echo ready; sleep 1000"], tty=True)
    machine.until(lambda: b"ready" in machine.exec_output[1]["stdout"], "the program")
    machine.stdin(1, b"\x03")
    assert machine.exec_exit(1)["signal"] == signal.SIGINT


def test_all_output_of_a_terminal_comes_before_its_end(machine: ContainerGuest) -> None:
    for stream in range(1, 21):
        machine.exec(stream, ["seq", "2000"], tty=True)
        machine.exec_exit(stream)
        expected = b"".join(b"%d\r\n" % number for number in range(1, 2001))
        assert machine.exec_output[stream]["stdout"] == expected


def test_a_signal_goes_to_the_whole_group(machine: ContainerGuest) -> None:
    machine.exec(1, ["sh", "-c", "sleep 1000 | sleep 1000; echo never"])
    machine.send(FrameType.EXEC_SIGNAL, {"signal": signal.SIGKILL}, 1)
    assert machine.exec_exit(1)["signal"] == signal.SIGKILL


def test_time_up_kills_the_group(machine: ContainerGuest) -> None:
    machine.exec(1, ["sh", "-c", "sleep 998 & echo started; sleep 999"], timeout_ms=int(TIME_S * 1000))
    report = machine.exec_exit(1)
    assert (report["timed_out"], report["signal"]) == (True, signal.SIGKILL)
    assert machine.exec_output[1]["stdout"] == b"started\n"
    machine.eventually(lambda: not {"sleep 998", "sleep 999"} & set(machine.commands()), "end of the group")


def test_a_background_process_does_not_hold_the_exec(machine: ContainerGuest) -> None:
    machine.exec(1, ["sh", "-c", "sleep 1000 & echo x"])
    assert machine.exec_exit(1)["exit_code"] == 0


def test_the_exit_of_the_main_process_is_not_held_up_by_an_exec(guest: ContainerGuest) -> None:
    guest.start(["sh", "-c", f"{UNTIL_TOLD}; exit 4"])
    guest.exec(1, ["sleep", "1000"])
    (guest.root / "tmp/go").touch()
    assert guest.expect(FrameType.EXIT)["exit_code"] == 4
    guest.send(FrameType.EXEC, {"argv": ["true"]}, 2)
    assert guest.expect(FrameType.ERROR, stream=2)["code"] == "wrong_state"
    guest.send_raw(FrameType.EXIT_ACK, 0)
    assert guest.wait() == 4


def test_a_new_session_ends_the_execs_of_the_old_and_keeps_the_main_process(machine: ContainerGuest) -> None:
    machine.exec(1, ["sleep", "999"])
    machine.eventually(lambda: "sleep 999" in machine.commands(), "the exec")
    assert machine.hello("another")["state"] == "running"
    machine.eventually(lambda: "sleep 999" not in machine.commands(), "the end of the old exec")
    assert "sleep 1000" in machine.commands()
    machine.exec(1, ["true"])
    assert machine.exec_exit(1)["exit_code"] == 0


def test_execs_run_at_once_up_to_a_limit(machine: ContainerGuest) -> None:
    for stream in range(1, 66):
        machine.send(FrameType.EXEC, {"argv": ["sleep", "1000"]}, stream)
    assert machine.expect(FrameType.ERROR)["code"] == "limit"
    machine.until(
        lambda: sum(kind == FrameType.EXEC_STARTED for kind, _, _ in machine.messages) == 64, "64 execs"
    )


def test_many_short_execs_each_give_their_code(machine: ContainerGuest) -> None:
    for stream in range(1, 101):
        machine.exec(stream, ["sh", "-c", f"exit {stream}"])
    for stream in range(1, 101):
        assert machine.exec_exit(stream)["exit_code"] == stream


def test_the_main_process_is_heard_while_an_exec_floods(guest: ContainerGuest) -> None:
    guest.start(["sh", "-c", "while :; do echo tick; sleep 0.05; done"])
    guest.exec(1, ["cat", "/dev/zero"])
    guest.until(lambda: len(guest.exec_output[1]["stdout"]) > 30_000_000, "a flood")
    before = len(guest.output["stdout"])
    guest.until(lambda: len(guest.output["stdout"]) > before, "a tick amid the flood")
