"""Sessions, files, queries, and hosts that misbehave."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from typing import Any

import pytest

from midge.guest import protocol as p
from midge.guest.protocol import Flag, FrameType
from tests.integration.init.guest import NONCE, ContainerGuest

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(300)]

PORTS = range(20_000, 30_000)  # below those that the kernel gives away by itself


def test_hello_says_who_is_there(guest: ContainerGuest) -> None:
    answer = guest.hello()
    assert (answer["version"], answer["nonce"], answer["state"]) == (1, NONCE, "waiting")
    assert len(answer["boot_id"]) == 36
    guest.configure(["sleep", "1000"])
    guest.expect(FrameType.CONFIGURED)
    assert guest.hello()["state"] == "configured"
    guest.send(FrameType.RUN)
    guest.expect(FrameType.RUNNING)
    answer = guest.hello()
    assert (answer["state"], answer["start_id"]) == ("running", "test")


def test_a_start_says_how_long_its_steps_took(guest: ContainerGuest) -> None:
    begun = time.monotonic()
    guest.hello()
    guest.configure(["sleep", "1000"])
    configure_us = guest.expect(FrameType.CONFIGURED)["took_us"]
    guest.put_file(1, "/srv/file", b"x")
    guest.expect(FrameType.FILE_DONE, stream=1)
    guest.send(FrameType.RUN)
    run_us = guest.expect(FrameType.RUNNING)["took_us"]
    assert configure_us > 0 and run_us > 0
    assert configure_us + run_us < (time.monotonic() - begun) * 1e6


def test_an_older_version_is_refused(guest: ContainerGuest) -> None:
    guest.send(FrameType.HELLO, {"version": 0, "nonce": NONCE})
    error = guest.expect(FrameType.ERROR)
    assert (error["code"], error["during"]) == ("version", "hello")
    guest.send(FrameType.HELLO, {"version": 9, "nonce": NONCE})
    assert guest.expect(FrameType.HELLO_ACK)["version"] == 1


def test_hello_is_found_after_garbage(guest: ContainerGuest) -> None:
    guest.sock.sendall(random.Random(1).randbytes(100_000) + b"MDG1" + b"\xff" * 12 + b"MDG")
    assert guest.hello()["state"] == "waiting"


def test_hello_is_found_even_after_more_garbage_than_a_stream_may_hold(guest: ContainerGuest) -> None:
    guest.sock.sendall(bytes(1_000_000))
    # What a broken stream holds is dropped piece by piece: a host says HELLO again until it is answered.
    guest.send(FrameType.HELLO, {"version": 1, "nonce": "first"})
    assert guest.hello()["state"] == "waiting"


def test_requests_without_a_session_are_not_answered(guest: ContainerGuest) -> None:
    guest.send(FrameType.STATS, stream=1)
    guest.hello()
    assert guest.messages == []


def test_a_long_message_in_pieces_is_put_together(guest: ContainerGuest) -> None:
    env = [[f"V{number}", "x" * 1_000] for number in range(200)]
    guest.start(["sh", "-c", "env | grep -c ^V"], env=env)
    assert guest.exit()["exit_code"] == 0
    assert guest.output["stdout"] == b"200\n"


def test_every_misfit_is_answered_by_an_error(guest: ContainerGuest) -> None:
    guest.hello()
    guest.send_raw(FrameType.STATS, 1, b"not json")
    guest.send_raw(FrameType.PS, 2, b"[]")
    guest.sock.sendall(p.encode_frame(0x3F, 3, b"{}"))
    guest.send_raw(FrameType.EXEC, 4, b'{"argv"', Flag.MORE)
    guest.send(FrameType.STATS, stream=5)
    for _ in range(17):
        guest.send_raw(FrameType.PS, 6, b" " * p.FRAME_PAYLOAD_MAX, Flag.MORE)
    guest.send_raw(FrameType.PS, 6, b"{}")
    guest.send(FrameType.STATS, stream=7)
    guest.expect(FrameType.STATS_REPLY, stream=7)
    errors = [
        (stream, m["code"], m["during"]) for kind, stream, m in guest.messages if kind == FrameType.ERROR
    ]
    assert errors == [
        (1, "bad_message", "stats"),
        (2, "bad_message", "ps"),
        (3, "unknown_type", "0x3f"),
        (4, "bad_message", "exec"),
        (6, "bad_message", "ps"),
    ]
    guest.expect(FrameType.STATS_REPLY, stream=5)


def test_random_frames_do_not_bring_it_down(guest: ContainerGuest) -> None:
    rng = random.Random(2)
    guest.hello()
    # Not SHUTDOWN, which ends the machine as it should.
    kinds = [kind for kind in range(0x40) if kind != FrameType.SHUTDOWN]
    for _ in range(3_000):
        body = rng.choice(
            [b"{}", b"", rng.randbytes(rng.randrange(300)), b'{"argv":[1]}', b'{"signal":99,"size":-1}']
        )
        guest.sock.sendall(
            p.encode_frame(rng.choice(kinds), rng.randrange(5), body, rng.choice([0, 1, 2, 0x80]))
        )
        if rng.random() < 0.2:
            guest.receive(0.001)
    guest.send(FrameType.HELLO, {"version": 1, "nonce": "survivor"})
    assert guest.expect(FrameType.HELLO_ACK, lambda message: message["nonce"] == "survivor")


def test_a_host_that_asks_and_never_reads_is_held_up_not_stored(guest: ContainerGuest) -> None:
    guest.hello()
    request = p.encode_message(FrameType.STATS, 1, b"{}") * 1_000
    guest.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    guest.sock.settimeout(1.0)
    with pytest.raises(TimeoutError):
        for _ in range(100):
            guest.sock.sendall(request)


def test_quiesced_is_the_last_word_until_hello(guest: ContainerGuest) -> None:
    guest.start(["sh", "-c", "while :; do echo tick; sleep 0.02; done"])
    guest.exec(1, ["sleep", "1000"])
    guest.until(lambda: len(guest.output["stdout"]) > 20, "ticks")
    guest.send(FrameType.QUIESCE)
    guest.expect(FrameType.QUIESCED)
    frames, size = guest.frames, len(guest.output["stdout"])
    guest.send(FrameType.STATS, stream=2)
    guest.receive(0.3)
    assert guest.frames == frames
    assert guest.hello()["state"] == "running"
    guest.until(lambda: len(guest.output["stdout"]) > size + 20, "ticks after the pause")
    guest.send(FrameType.RESUME, {"hostname": "fork", "machine_id": "0" * 32})
    guest.expect(FrameType.RESUMED)
    guest.exec(1, ["hostname"])
    guest.exec_exit(1)
    assert guest.exec_output[1]["stdout"] == b"fork\n"


def test_shutdown_ends_without_a_report(guest: ContainerGuest) -> None:
    guest.start(["sleep", "1000"])
    guest.send(FrameType.SHUTDOWN)
    assert guest.wait() == 0


def test_the_start_can_be_sent_at_once(guest: ContainerGuest) -> None:
    guest.send(FrameType.HELLO, {"version": 1, "nonce": NONCE})
    guest.configure(["/opt/app/run"])
    guest.put_file(1, "/opt/app/run", b"#!/bin/sh\ncat /var/run/secret\nexit 6\n", mode=0o755)
    guest.put_file(2, "/var/run/secret", b"s" * 200_000, mode=0o400, uid=0, gid=10)
    guest.send(FrameType.RUN)
    assert guest.exit()["exit_code"] == 6
    assert len(guest.output["stdout"]) == 200_000
    assert [kind for kind, _, _ in guest.messages] == [
        FrameType.HELLO_ACK,
        FrameType.CONFIGURED,
        FrameType.FILE_DONE,
        FrameType.FILE_DONE,
        FrameType.RUNNING,
    ]
    secret = (guest.root / "run/secret").stat()
    assert (secret.st_mode & 0o7777, secret.st_gid) == (0o400, 10)


def test_the_first_failure_of_a_start_refuses_the_rest(guest: ContainerGuest) -> None:
    guest.hello()
    guest.configure(["true"])
    guest.put_file(1, "/etc/passwd/x", b"x")
    guest.put_file(2, "/fine", b"x")
    guest.send(FrameType.RUN)
    report = guest.exit()
    assert report["exit_code"] == 125
    assert "/etc/passwd" in report["error"]
    errors = [
        (stream, m["code"], m["during"]) for kind, stream, m in guest.messages if kind == FrameType.ERROR
    ]
    assert errors == [(1, "failed", "file"), (2, "refused", "file"), (0, "refused", "run")]


def test_a_configuration_that_makes_no_sense_ends_in_exit_125(guest: ContainerGuest) -> None:
    guest.hello()
    guest.configure(["true"], mounts=[{"device": "/dev/x", "path": "relative"}])
    guest.send(FrameType.RUN)
    assert guest.exit()["exit_code"] == 125
    assert b"absolute path" in guest.output["stderr"]


def test_identity_is_written_where_it_belongs(guest: ContainerGuest) -> None:
    (guest.root / "etc/machine-id").write_text("")
    (guest.root / "etc/resolv.conf").symlink_to("../run/stub/resolv.conf")
    (guest.root / "etc/hosts").write_text("127.0.0.1 localhost\n10.1.1.1 own\n")
    guest.start(
        ["hostname"],
        hostname="m-1",
        machine_id="0123456789abcdef0123456789abcdef",
        hosts=[{"ip": "10.0.0.7", "names": ["m-1", "m-1.internal"]}],
        resolv={"nameservers": ["fdaa::3"], "searches": ["internal"]},
    )
    guest.exit()
    assert guest.output["stdout"] == b"m-1\n"
    etc = guest.root / "etc"
    assert (etc / "hostname").read_text() == "m-1\n"
    assert (etc / "machine-id").read_text() == "0123456789abcdef0123456789abcdef\n"
    assert (etc / "resolv.conf").read_text() == "nameserver fdaa::3\nsearch internal\n"
    assert not (etc / "resolv.conf").is_symlink()
    hosts = (etc / "hosts").read_text()
    assert "10.1.1.1 own\n" in hosts
    assert "10.0.0.7\tm-1 m-1.internal\n" in hosts


def test_figures_are_those_of_the_machine(guest: ContainerGuest) -> None:
    guest.start(["sleep", "1000"])
    guest.send(FrameType.STATS, stream=1)
    stats = guest.expect(FrameType.STATS_REPLY)
    assert stats["memory"]["mem_total"] > stats["memory"]["mem_available"] > 0
    assert len(stats["load_average"]) == 3
    assert stats["cpus"]["0"]["idle"] > 0
    assert stats["filesystems"]["/"]["size_bytes"] > 0


def free_port() -> int:
    """One that nobody is given who asks for any: the machine shares the host's network with everybody's tests."""
    for port in random.sample(PORTS, 100):
        with contextlib.suppress(OSError), socket.create_server(("0.0.0.0", port)):
            return port
    raise AssertionError("no free port")


def test_the_process_list_names_listening_sockets(guest: ContainerGuest) -> None:
    port = free_port()
    pid = guest.start(["nc", "-l", "-p", str(port)])

    def listening() -> bool:
        guest.send(FrameType.PS, stream=1)
        seen.update((item["pid"], item) for item in guest.expect(FrameType.PS_REPLY)["processes"])
        sockets = seen[pid]["listen_sockets"]
        return [(item["proto"], item["address"].rpartition(":")[2]) for item in sockets] == [
            ("tcp", str(port))
        ]

    seen: dict[int, dict[str, Any]] = {}
    guest.eventually(listening, "the socket")
    assert {1, pid} <= set(seen)
    # Not asserted before it listens: a program that has just been executed has no command line yet.
    assert seen[pid]["command"].startswith("nc -l -p")
    assert seen[pid]["rss"] > 0
