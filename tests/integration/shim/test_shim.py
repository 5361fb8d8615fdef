"""midge-shim: launch, relay, log, exit and end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from midge.errors import DriverError
from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.errors import ChannelLost, GuestRefused
from midge.guest.protocol import FrameType
from midge.logs.reader import LogReader
from midge.testing.fake_init import FakeInit

from .conftest import DEADLINE_S, GuestEnd, Machine

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]


async def _until_exit_ack(guest: GuestEnd) -> None:
    while (await guest.recv()).type != FrameType.EXIT_ACK:
        pass


async def test_ready_means_listening_and_running(machine: Machine) -> None:
    shim, guest = await machine.start()
    state = machine.state()
    assert state.record is not None
    assert (state.record.shim_pid, state.shim_alive, state.child_alive) == (shim.pid, True, True)
    assert (machine.rundir / "guest.sock").stat().st_mode & 0o777 == 0o600
    assert os.getsid(shim.pid) == shim.pid
    async with await machine.attach() as channel:
        assert channel.shim.child_pid == state.record.child_pid
        assert (channel.shim.exit, channel.shim.channel) == (None, "open")
    guest.finish(3)
    ended = await machine.ended(shim)
    assert ended.ended is not None
    assert (ended.ended.exit_code, ended.ended.signal, ended.exit) == (3, None, None)
    assert not ended.shim_alive
    assert not (machine.rundir / "guest.sock").exists()
    assert machine.vmm_log() == "guest program runs\n"


async def test_program_that_cannot_be_executed_is_an_error_of_launch(machine: Machine) -> None:
    with pytest.raises(DriverError, match="No such file"):
        await machine.launch(program=("/nonexistent/vmm",))
    assert not (machine.rundir / "guest.sock").exists()


async def test_wrong_command_line_is_an_error_of_launch(machine: Machine) -> None:
    with pytest.raises(DriverError, match="open /nonexistent"):
        await machine.launch(netns=Path("/nonexistent"))


async def test_channel_works_through_the_shim(machine: Machine) -> None:
    _, guest = await machine.start()
    async with await machine.attach() as channel, asyncio.TaskGroup() as group:
        serving = group.create_task(guest.serve(FakeInit()))
        await channel.hello()
        data = os.urandom(1_000_000)
        result = await channel.run_exec(m.ExecRequest(argv=("cat",)), data, timeout_s=DEADLINE_S)
        assert result.stdout == data
        serving.cancel()


async def test_prompt_without_newline_is_in_the_log_at_once(machine: Machine) -> None:
    _, guest = await machine.start()
    records = LogReader(machine.log).follow(since_ns=0)
    await guest.send(FrameType.OUTPUT, b"login: ")
    record = await asyncio.wait_for(anext(records), DEADLINE_S)
    assert (record.stream, record.data, record.complete) == ("stdout", b"login: ", False)
    await guest.send(FrameType.OUTPUT, b"\xff\xfe\n", flags=p.Flag.STDERR)
    record = await asyncio.wait_for(anext(records), DEADLINE_S)
    assert (record.stream, record.data, record.complete) == ("stderr", b"\xff\xfe", True)


async def test_exit_is_recorded_with_nobody_attached(machine: Machine) -> None:
    shim, guest = await machine.start()
    await guest.send(FrameType.OUTPUT, b"last words")
    await guest.send(FrameType.EXIT, json.dumps({"exit_code": 3, "error": "x" * 60_000}).encode())
    await _until_exit_ack(guest)
    state = machine.state()
    assert state.exit is not None
    assert (state.exit.exit_code, len(state.exit.error or "")) == (3, 1024)
    assert [r.data for r in await machine.records()] == [b"last words"]
    async with await machine.attach() as channel:
        assert (await channel.wait_exit()).exit_code == 3
    guest.finish()
    ended = await machine.ended(shim)
    assert ended.ended is not None
    assert ended.ended.exit_code == 0


async def test_first_exit_counts(machine: Machine) -> None:
    _, guest = await machine.start()
    for code in (5, 6):
        await guest.send(FrameType.EXIT, json.dumps({"exit_code": code}).encode())
    await _until_exit_ack(guest)
    async with await machine.attach() as channel:
        assert (await channel.wait_exit()).exit_code == 5


async def test_output_sent_just_before_the_end_is_kept(machine: Machine) -> None:
    shim, guest = await machine.start()
    state = machine.state()
    assert state.record is not None
    os.kill(shim.pid, signal.SIGSTOP)
    await guest.send(FrameType.OUTPUT, b"panic\n" * 1000)
    await guest.send(FrameType.EXIT, b'{"exit_code":1}')
    state.record.child.kill()
    os.kill(shim.pid, signal.SIGCONT)
    ended = await machine.ended(shim)
    assert ended.ended is not None
    assert ended.exit is not None
    assert (ended.ended.signal, ended.exit.exit_code) == (9, 1)
    assert len(await machine.records()) == 1000


async def test_killed_program_is_reported_with_its_signal(machine: Machine) -> None:
    shim, _ = await machine.start()
    async with await machine.attach() as channel:
        state = machine.state()
        assert state.record is not None
        os.kill(state.record.child_pid, signal.SIGSEGV)
        assert (await asyncio.wait_for(channel.wait_ended(), DEADLINE_S)).signal == signal.SIGSEGV
        with pytest.raises(ChannelLost, match="without reporting its exit"):
            await channel.wait_exit()
    ended = await machine.ended(shim)
    assert ended.ended is not None
    assert ended.ended.signal == signal.SIGSEGV
    with pytest.raises(ChannelLost):
        await machine.attach()


async def test_kill_ends_the_machine(machine: Machine) -> None:
    shim, _ = await machine.start()
    async with await machine.attach() as channel:
        await channel.kill()
        assert (await asyncio.wait_for(channel.wait_ended(), DEADLINE_S)).signal == 9
    await machine.ended(shim)


async def test_machine_does_not_outlive_its_shim(machine: Machine) -> None:
    shim, guest = await machine.start()
    record = machine.state().record
    assert record is not None
    shim.kill()
    await asyncio.wait_for(shim.wait(), DEADLINE_S)
    with pytest.raises((EOFError, ConnectionError)):
        await guest.recv()
    # The program is no child of this process: wait until its control connection has ended.
    assert guest.control.recv(1) == b""
    assert machine.state().ended is None


_WORKER = """
import asyncio, os, signal, sys
from pathlib import Path
from midge.drivers.shim import ShimSpec, attach, launch

async def main():
    rundir = Path(sys.argv[1])
    spec = ShimSpec(rundir=rundir, log=rundir / "log", channel=5, program=tuple(sys.argv[2:]))
    await launch(spec)
    await attach(rundir)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_machine_outlives_the_worker_that_started_it(machine: Machine) -> None:
    argv = [sys.executable, "-c", _WORKER, str(machine.rundir), *machine.spec.program]
    worker = await asyncio.create_subprocess_exec(*argv)
    guest = await machine.guest_end()
    assert await worker.wait() == -signal.SIGKILL
    state = machine.state()
    assert (state.shim_alive, state.child_alive) == (True, True)
    await guest.send(FrameType.EXIT, b'{"exit_code":3}')
    await _until_exit_ack(guest)
    async with await machine.attach() as channel:
        assert (await channel.wait_exit()).exit_code == 3
        guest.finish(1)
        assert (await asyncio.wait_for(channel.wait_ended(), DEADLINE_S)).exit_code == 1


async def test_shim_ignores_what_is_meant_for_the_worker(machine: Machine) -> None:
    shim, guest = await machine.start()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        os.kill(shim.pid, number)
    await guest.send(FrameType.EXIT, b"{}")
    await _until_exit_ack(guest)


async def test_second_worker_replaces_the_first(machine: Machine) -> None:
    _, guest = await machine.start()
    first = await machine.attach()
    async with await machine.attach() as second:
        with pytest.raises(ChannelLost):
            await asyncio.wait_for(first.wait_ended(), DEADLINE_S)
        waiting = asyncio.ensure_future(second.hello())
        hello = json.loads((await guest.recv()).payload)
        ack = {"version": 1, "nonce": hello["nonce"], "init_version": "t", "state": "waiting"}
        await guest.send(FrameType.HELLO_ACK, json.dumps(ack).encode())
        assert (await waiting).state == "waiting"
    await first.aclose()


_HALF_A_FRAME = """
import socket, sys
from midge.guest import protocol as p
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
whole = p.encode_frame(p.FrameType.STDIN, 7, b"whole")
half = p.encode_frame(p.FrameType.STDIN, 7, b"x" * 60_000)[:30_000]
sock.sendall(whole + half)
print("sent", flush=True)
sock.recv(1 << 20)
sys.stdin.read()
"""


async def test_worker_killed_in_mid_frame_leaves_nothing_of_it(machine: Machine) -> None:
    _, guest = await machine.start()
    argv = [sys.executable, "-c", _HALF_A_FRAME, str(machine.rundir / "guest.sock")]
    worker = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert worker.stdout is not None
    assert await worker.stdout.readline() == b"sent\n"
    assert await guest.recv() == p.Frame(FrameType.STDIN, 0, 7, b"whole")
    worker.kill()
    await worker.wait()
    async with await machine.attach() as channel:
        await channel.signal(10)
        assert (await guest.recv()).type == FrameType.SIGNAL


async def test_worker_that_does_not_read_is_cut_off(machine: Machine) -> None:
    shim, guest = await machine.start()
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(machine.rundir / "guest.sock"))
        lazy.send(p.encode_frame(FrameType.SIGNAL, 0, b"{}"))
        await guest.recv()
        for _ in range(256):
            await guest.send(FrameType.EXEC_OUTPUT, b"z" * 65_536, stream=1)
        await guest.send(FrameType.OUTPUT, b"not blocked\n")
        await guest.send(FrameType.EXIT, b"{}")
        await _until_exit_ack(guest)
        lazy.settimeout(DEADLINE_S)
        received = 0
        while data := lazy.recv(1 << 20):
            received += len(data)
        assert received < 8 << 20
    assert [r.data for r in await machine.records()] == [b"not blocked"]
    assert _rss_kb(shim.pid) < 4_000
    async with await machine.attach() as channel:
        assert channel.shim.exit is not None


async def test_worker_that_floods_is_held_back(machine: Machine) -> None:
    _, guest = await machine.start()
    frame = p.encode_frame(FrameType.STDIN, 1, b"f" * 65_000)
    with socket.socket(socket.AF_UNIX) as flood:
        flood.connect(str(machine.rundir / "guest.sock"))
        flood.settimeout(0.3)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64 << 20:
                flood.sendall(frame)
                sent += len(frame)
        assert sent < 8 << 20
        # A new worker gets through: what the old one wanted and was not sent is gone.
        async with await machine.attach() as channel:
            await channel.signal(12)
            while (frame_got := await guest.recv()).type != FrameType.SIGNAL:
                assert frame_got.payload == b"f" * 65_000


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * (p.RESYNC_BYTES_MAX + 1),
        p.MAGIC * (p.RESYNC_BYTES_MAX // 2),
        p.HEADER.pack(p.MAGIC, 0x50, 0, 0, 0, 0xFFFFFFFF) * 40_000,
    ],
    ids=["zeros", "magic", "huge lengths"],
)
async def test_hostile_stream_ends_the_channel_and_not_the_machine(machine: Machine, garbage: bytes) -> None:
    shim, guest = await machine.start()
    async with await machine.attach() as channel:
        stats = asyncio.ensure_future(channel.hello())
        await guest.recv()
        with pytest.raises((ConnectionError, asyncio.TimeoutError)):
            for _ in range(100):
                await guest.send_raw(garbage)
        with pytest.raises(GuestRefused, match="no frame"):
            await stats
        async with await machine.attach() as later:
            assert later.shim.channel == "broken"
    assert machine.state().child_alive
    assert "guest channel closed" in machine.vmm_log()
    assert _rss_kb(shim.pid) < 3_000
    guest.finish(4)
    ended = await machine.ended(shim)
    assert ended.ended is not None
    assert ended.ended.exit_code == 4


async def test_guest_finds_the_boundary_again_and_cannot_speak_as_shim(machine: Machine) -> None:
    _, guest = await machine.start()
    async with await machine.attach() as channel:
        ended = p.encode_message(FrameType.SHIM_ENDED, 0, b'{"exit_code":0}')
        kill = p.encode_frame(FrameType.SHIM_KILL)
        await guest.send_raw(b"noise" + ended + kill + p.encode_frame(FrameType.HELLO) + b"\0" * 1000)
        await guest.send(FrameType.EXIT, b"not json")
        await guest.send(FrameType.EXIT, b'{"exit_code":2}')
        assert (await asyncio.wait_for(channel.wait_exit(), DEADLINE_S)).exit_code == 2
    assert machine.state().child_alive


async def test_frame_that_never_ends_holds_up_nobody_else(machine: Machine) -> None:
    shim, guest = await machine.start()
    await guest.send_raw(p.HEADER.pack(p.MAGIC, FrameType.OUTPUT, 0, 0, 0, 65_536) + b"x" * 1000)
    async with await machine.attach() as channel:
        await channel.kill()
        assert (await asyncio.wait_for(channel.wait_ended(), DEADLINE_S)).signal == 9
    await machine.ended(shim)


def _rss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")
