"""midge-shim: launchers, vsock, and what the program is started with."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from midge.drivers.shim import VsockChannel
from midge.errors import DriverError
from midge.guest import protocol as p
from midge.guest.protocol import FrameType
from tests import signals
from tests.contract.drivers.kit import eventually

from .conftest import CHANNEL_FD, DEADLINE_S, Machine

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]


def _launcher(machine: Machine, script: str) -> tuple[str, ...]:
    """A shell that starts the guest program in the background, as `runc run --detach` does."""
    words = {"PROGRAM": machine.spec.program, "PIDFILE": [str(_pid_file(machine))]}
    for name, value in words.items():
        script = script.replace(name, shlex.join(value))
    return ("/bin/sh", "-c", script)


def _child_pid(machine: Machine) -> int:
    record = machine.state().record
    assert record is not None
    return record.child_pid


def _pid_file(machine: Machine) -> Path:
    return machine.directory / "pid"


async def test_main_process_of_a_launcher_is_adopted(machine: Machine) -> None:
    program = _launcher(machine, "PROGRAM & echo $! > PIDFILE")
    shim, guest = await machine.start(program=program, pid_file=_pid_file(machine))
    async with await machine.attach() as channel:
        await guest.send(FrameType.EXIT, b'{"exit_code":0}')
        await channel.wait_exit()
        # The program may be there before the shell has written its number and has ended.
        await eventually(lambda: _child_pid(machine) > 0, "adoption")
        assert _child_pid(machine) == int(_pid_file(machine).read_text())
        guest.finish(9)
        assert (await asyncio.wait_for(channel.wait_ended(), DEADLINE_S)).exit_code == 9
    await machine.ended(shim)


async def test_launcher_that_fails_is_reported_with_its_last_words(machine: Machine) -> None:
    program = ("/bin/sh", "-c", "echo no such bundle >&2; exit 3")
    shim = await machine.launch(program=program, pid_file=_pid_file(machine))
    ended = (await machine.ended(shim)).ended
    assert ended is not None
    assert (ended.exit_code, ended.error) == (3, "launcher failed: no such bundle")


async def test_main_process_that_ends_before_its_launcher_keeps_its_code(machine: Machine) -> None:
    script = "(exit 6) & echo $! > PIDFILE; wait; PROGRAM"
    shim, guest = await machine.start(program=_launcher(machine, script), pid_file=_pid_file(machine))
    guest.finish(0)
    # The shell has reaped its child itself, so there is nothing left to adopt.
    ended = (await machine.ended(shim)).ended
    assert ended is not None
    assert ended.error is not None
    assert "is not a child" in ended.error


async def test_kill_while_a_launcher_runs_takes_effect_once_it_is_done(machine: Machine) -> None:
    script = "PROGRAM & echo $! > PIDFILE; read _ < " + shlex.quote(str(machine.directory / "go"))
    os.mkfifo(machine.directory / "go")
    program = _launcher(machine, script)
    shim, _ = await machine.start(program=program, pid_file=_pid_file(machine))
    async with await machine.attach() as channel:
        assert channel.shim.child_pid == 0
        await channel.kill()
        # A second connection serves as an answer: orders of the first are taken before it is accepted.
        async with await machine.attach() as second:
            await asyncio.to_thread((machine.directory / "go").write_text, "\n")
            assert (await asyncio.wait_for(second.wait_ended(), DEADLINE_S)).signal == 9
    await machine.ended(shim)


async def test_program_sees_only_what_it_was_given(machine: Machine) -> None:
    script = 'ls /proc/self/fd | tr "\\n" " "; pwd; umask; env; cat /proc/self/status'
    # A busy worker's numbers are high, also higher than what the program itself may open.
    with _descriptor_from(200) as writer, signals.ignored(*signals.SAMPLES):
        shim = await machine.launch(
            program=("/bin/sh", "-c", script),
            pass_fds=(writer,),
            env={"PATH": os.defpath, "A": "b"},
            no_new_privs=True,
            nofile=77,
        )
        await machine.ended(shim)
    lines = machine.vmm_log().splitlines()
    # ls opens the directory itself.
    numbers = set(map(int, lines[0].split()[:-1]))
    assert {0, 1, 2, CHANNEL_FD, writer} <= numbers
    assert len(numbers) == 6
    assert lines[0].split()[-1] == "/"
    assert "A=b" in lines
    assert "NoNewPrivs:\t1" in lines
    masks = dict(line.split(":\t") for line in lines if line.startswith("Sig") and "/" not in line)
    assert int(masks["SigIgn"], 16) == 0
    assert int(masks["SigBlk"], 16) == 0


async def test_vmm_log_is_bounded(machine: Machine) -> None:
    shim = await machine.launch(program=("/bin/sh", "-c", "head -c 3000000 /dev/zero; echo the end"))
    await machine.ended(shim)
    log = (machine.rundir / "vmm.log").read_bytes()
    assert log.endswith(b"the end\n")
    assert len(log) + (machine.rundir / "vmm.log.1").stat().st_size <= 262_144


@contextmanager
def _descriptor_from(number: int) -> Iterator[int]:
    with Path(os.devnull).open("wb") as null:
        fd = fcntl.fcntl(null, fcntl.F_DUPFD, number)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.root
async def test_enters_namespace_cgroup_and_user(machine: Machine) -> None:
    with _netns() as netns, _cgroup() as cgroup:
        script = (
            "readlink /proc/self/ns/net; cat /proc/self/cgroup /proc/self/oom_score_adj; id -u; id -g; id -G"
        )
        shim = await machine.launch(
            program=("/bin/sh", "-c", script),
            netns=netns,
            cgroups=(cgroup / "cgroup.procs",),
            uid=64_001,
            gid=64_002,
            groups=(64_003,),
            oom_score=321,
        )
        await machine.ended(shim)
        lines = machine.vmm_log().splitlines()
        assert lines[0] == f"net:[{netns.stat().st_ino}]"
        assert any(line.endswith("/" + cgroup.name) for line in lines)
        assert lines[-4:] == ["321", "64001", "64002", "64002 64003"]


@pytest.mark.root
@pytest.mark.parametrize("channel", range(3, 20, 2))
async def test_every_number_may_be_wanted_for_channel_and_tap(machine: Machine, channel: int) -> None:
    with _netns() as netns:
        _add_tap(netns, "tap0")
        script = f"readlink /proc/self/fd/{channel} /proc/self/fd/{channel + 1}"
        shim = await machine.launch(
            program=("/bin/sh", "-c", script), netns=netns, channel=channel, tap=("tap0", channel + 1)
        )
        await machine.ended(shim)
        lines = machine.vmm_log().splitlines()
        assert lines[0].startswith("socket:")
        assert lines[1] == "/dev/net/tun"


@pytest.mark.root
async def test_shim_stays_outside_of_the_cgroup(machine: Machine) -> None:
    with _cgroup() as cgroup:
        shim, guest = await machine.start(cgroups=(cgroup / "cgroup.procs",))
        record = machine.state().record
        assert record is not None
        assert (cgroup / "cgroup.procs").read_text().split() == [str(record.child_pid)]
        guest.finish()
        await machine.ended(shim)


@pytest.mark.root
async def test_full_disk_loses_output_and_not_the_machine(machine: Machine) -> None:
    with _small_disk(machine.directory / "disk") as disk:
        machine.log = disk / "log"
        shim, guest = await machine.start(log=machine.log, rundir=_made(disk / "run"))
        line = b"a line of output" * 4 + b"\n"
        for _ in range(20):
            await guest.send(FrameType.OUTPUT, line * 1000)
        await guest.send(FrameType.EXIT, b'{"exit_code":8}')
        while (await guest.recv()).type != FrameType.EXIT_ACK:
            pass
        assert (disk / "run" / "exit.json").exists()
        machine.log.write_bytes(b"")
        await guest.send(FrameType.OUTPUT, b"room again\n")
        guest.finish()
        await asyncio.wait_for(shim.wait(), DEADLINE_S)
        assert (disk / "run" / "ended.json").exists()
        texts = [record.data for record in await machine.records()]
        assert texts[-1] == b"room again"
        assert texts[-2].startswith(b"midge: ")
        assert texts[-2].endswith(b" bytes of output lost: no space")


async def test_vsock_is_tried_until_the_guest_listens_and_again_after_a_resume(machine: Machine) -> None:
    path = machine.directory / "v.sock"
    asked: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"CONNECT 52\n"
        await asked.put((reader, writer))

    async def next_connection() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.wait_for(asked.get(), DEADLINE_S)

    async def answered(said: bytes, heard: bytes) -> asyncio.StreamWriter:
        """A connection on which the guest says something and hears something; one the shim still waits for."""
        while True:
            reader, writer = await next_connection()
            try:
                writer.write(b"OK 1073741824\n" + said)
                assert await asyncio.wait_for(reader.readexactly(len(heard)), DEADLINE_S) == heard
            except (ConnectionError, asyncio.IncompleteReadError):
                writer.close()
                continue
            return writer

    await machine.launch(program=("/bin/sleep", "1000"), channel=VsockChannel(path, 52))
    async with await machine.attach() as channel:
        assert channel.shim.channel == "closed"
        await channel.signal(1)
        server = await asyncio.start_unix_server(on_connection, path)
        for _ in range(3):
            _, refused = await next_connection()
            refused.close()
        hello = p.encode_frame(FrameType.OUTPUT, 0, b"hello\n")
        (await answered(hello, p.encode_frame(FrameType.SIGNAL, 0, b'{"signal":1}'))).close()
        exit_ = p.encode_message(FrameType.EXIT, 0, b'{"exit_code":0}')
        await answered(exit_, p.encode_frame(FrameType.EXIT_ACK))
        assert (await asyncio.wait_for(channel.wait_exit(), DEADLINE_S)).exit_code == 0
        await channel.kill()
        await asyncio.wait_for(channel.wait_ended(), DEADLINE_S)
        server.close()
    assert [record.data for record in await machine.records()] == [b"hello"]


async def test_path_of_the_socket_may_be_too_long(machine: Machine) -> None:
    with pytest.raises(DriverError, match="too long"):
        await machine.launch(rundir=machine.directory / ("x" * 120))


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@contextmanager
def _small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "midge-test", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@contextmanager
def _netns() -> Iterator[Path]:
    if os.getuid() != 0:
        pytest.skip("needs root")
    name = f"midge-test-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield Path("/run/netns") / name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _add_tap(netns: Path, name: str) -> None:
    subprocess.run(["ip", "-n", netns.name, "tuntap", "add", name, "mode", "tap"], check=True)


@contextmanager
def _cgroup() -> Iterator[Path]:
    root = Path("/sys/fs/cgroup/pids") if Path("/sys/fs/cgroup/pids").is_dir() else Path("/sys/fs/cgroup")
    path = root / f"midge-test-{uuid.uuid4().hex[:8]}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a cgroup: {error}")
    try:
        yield path
    finally:
        path.rmdir()
