"""Pipes and terminals, with the command line as a process of its own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import termios
import time

import pytest

from tests.integration.cli.conftest import Midge
from tests.integration.cli.terminal import MIDGE, TIMEOUT_S, environment, terminal


def run(midge: Midge, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*MIDGE, *args],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        env=environment(midge),
        cwd=midge.cwd,
        check=False,
    )


@pytest.mark.slow
def test_bytes_go_through_a_pipe_unchanged(midge: Midge) -> None:
    machine = midge.machine()
    data = bytes(range(256)) * 4096 + b"end"
    done = run(midge, "machine", "exec", "-i", machine, "cat", stdin=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout == data


@pytest.mark.slow
def test_without_i_stdin_is_left_alone(midge: Midge) -> None:
    machine = midge.machine()
    script = f"printf 'a\\nb\\n' | while read x; do {' '.join(MIDGE)} machine exec {machine} echo $x; done"
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, timeout=TIMEOUT_S, env=environment(midge), check=False
    )
    assert done.stdout == b"a\nb\n"


@pytest.mark.slow
def test_a_closed_stdout_ends_it_quietly(midge: Midge) -> None:
    machine = midge.machine()
    script = f"{' '.join(MIDGE)} machine exec {machine} bytes 1000000 | head -c 1 | wc -c"
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, timeout=TIMEOUT_S, env=environment(midge), check=False
    )
    assert done.stdout.strip() == b"1"
    assert done.stderr == b""


@pytest.mark.slow
def test_ctrl_c_without_a_terminal_ends_the_command_with_130(midge: Midge) -> None:
    machine = midge.machine()
    process = subprocess.Popen(
        [*MIDGE, "machine", "exec", "-i", machine, "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(midge),
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"ready")
    process.stdin.flush()
    assert process.stdout.read(5) == b"ready"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert errors.strip() == b"interrupted"


@pytest.mark.slow
def test_a_terminal_is_raw_while_the_command_runs_and_as_before_afterwards(midge: Midge) -> None:
    machine = midge.machine()
    with terminal(midge, "machine", "exec", "-it", machine, "cat") as tty:
        tty.until_raw()
        # Ctrl-C is a byte for the remote program now, and comes back from its `cat`.
        tty.type(b"\x03keys")
        tty.until(b"\x03keys")
        assert tty.process.poll() is None
        tty.process.send_signal(signal.SIGTERM)
        assert tty.wait() == 128 + signal.SIGTERM
        assert termios.tcgetattr(tty.slave) == tty.before


@pytest.mark.slow
def test_ctrl_c_ends_a_command_on_a_terminal_that_gets_no_keys(midge: Midge) -> None:
    machine = midge.machine()
    with terminal(midge, "machine", "exec", "-t", machine, "sleep", "600", "ready") as tty:
        tty.until(b"ready")
        tty.type(b"\x03")
        assert tty.wait() == 130
        assert termios.tcgetattr(tty.slave) == tty.before


@pytest.mark.slow
def test_the_remote_terminal_has_our_size(midge: Midge) -> None:
    machine = midge.machine()
    with terminal(midge, "machine", "exec", "-t", machine, "stty", "size") as tty:
        tty.until(b"30 100")
        assert tty.wait() == 0


@pytest.mark.slow
def test_a_new_size_is_passed_on(midge: Midge, server: object) -> None:
    from tests.integration.cli.conftest import ServerThread

    assert isinstance(server, ServerThread) and server.server is not None
    machine = midge.machine()
    with terminal(midge, "machine", "exec", "-it", machine, "cat") as tty:
        tty.until_raw()
        tty.type(b"x")
        tty.until(b"x")
        tty.resize(50, 120)
        os.killpg(tty.process.pid, signal.SIGWINCH)
        session = server.server.services.host.driver.sessions[-1]  # type: ignore[attr-defined]  # it is a StagedHost
        deadline = time.monotonic() + TIMEOUT_S
        while session.size != (50, 120):
            assert time.monotonic() < deadline
            select.select([], [], [], 0.02)


@pytest.mark.slow
def test_a_yes_is_asked_for_on_a_terminal(midge: Midge) -> None:
    with terminal(midge, "app", "destroy", midge.app) as tty:
        tty.until(b"[y/N]")
        tty.type(b"n\n")
        assert tty.wait() == 1
        tty.until(b"nothing was done")
    with terminal(midge, "app", "destroy", midge.app) as tty:
        tty.until(b"[y/N]")
        tty.type(b"y\n")
        assert tty.wait() == 0


@pytest.mark.slow
def test_ctrl_c_while_waiting_detaches_and_says_how_to_go_on(midge: Midge) -> None:
    machine = midge.machine()
    with terminal(midge, "machine", "wait", machine, "--state", "suspended") as tty:
        tty.until(b"waiting for")
        tty.type(b"\x03")
        assert tty.wait() == 130
        tty.until(f"midge machine wait {machine} -a {midge.app} --state suspended".encode())


@pytest.mark.slow
def test_a_pipe_carries_tcp_to_a_machine(midge: Midge) -> None:
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def echo() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data.upper())

    thread = threading.Thread(target=echo)
    thread.start()
    machine = midge.machine()
    process = subprocess.Popen(
        [*MIDGE, "proxy", f"0:{port}", machine, "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(midge),
    )
    try:
        assert process.stdout is not None
        local = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", local), timeout=TIMEOUT_S) as connection:
            connection.sendall(b"hello" * 50_000)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while data := connection.recv(65536):
                answer += data
        assert answer == b"HELLO" * 50_000
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
    finally:
        process.kill()
        process.communicate()
        thread.join(TIMEOUT_S)
        listener.close()
