"""GuestChannel against a fake shim with a fake guest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from midge.errors import DeadlineExceeded
from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.channel import GuestChannel
from midge.guest.errors import ChannelLost, GuestRefused, ProtocolError
from midge.guest.files import GuestFile
from midge.guest.protocol import FrameType
from midge.testing.fake_guest import FakeGuest
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio

CONFIGURE = m.Configure(
    start_id="01J",
    mode="vm",
    wall_clock_ns=0,
    entropy=bytes(64),
    hostname="h",
    machine_id="0" * 32,
    argv=("/bin/app",),
)


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[FakeGuest]:
    async with FakeGuest(tmp_path / "s") as guest:
        yield guest


@pytest.fixture
async def channel(guest: FakeGuest) -> AsyncIterator[GuestChannel]:
    async with await GuestChannel.connect(guest.path) as channel:
        await channel.hello()
        yield channel


async def test_connecting_to_nobody_says_so(tmp_path: Path) -> None:
    with pytest.raises(ChannelLost, match="no shim listens"):
        await GuestChannel.connect(tmp_path / "none")


async def test_a_shim_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(lambda r, w: None, tmp_path / "s")
    async with server:
        with pytest.raises(DeadlineExceeded):
            await GuestChannel.connect(tmp_path / "s", timeout_s=0.02)


async def test_start_is_one_write_and_one_wait(guest: FakeGuest) -> None:
    files = [GuestFile("/a", b"x" * 70_000, 0o600), GuestFile("/b", b"")]
    async with await GuestChannel.connect(guest.path) as channel:
        running = await channel.start(CONFIGURE, files)
    assert running.pid == 100
    assert guest.init.configure == CONFIGURE
    assert guest.init.files == {f.path: f for f in files}
    types = [FrameType(f.type) for f in guest.init.received]
    assert types[0] == FrameType.HELLO
    assert types[-1] == FrameType.RUN


async def test_a_start_marks_the_answers_that_come_apart(guest: FakeGuest) -> None:
    guest.init.script.silent = frozenset({FrameType.CONFIGURE, FrameType.RUN})
    marks: list[str] = []
    marked = asyncio.Event()

    def mark(phase: str, ago_s: float) -> None:
        assert ago_s == 0.0  # what the host has seen itself counts
        marks.append(phase)
        marked.set()

    async with await GuestChannel.connect(guest.path) as channel, asyncio.TaskGroup() as tasks:
        tasks.create_task(channel.start(CONFIGURE, mark=mark))
        for answer, body in (
            (FrameType.CONFIGURED, {"took_us": 7}),
            (FrameType.RUNNING, {"pid": 1, "took_us": 8}),
        ):
            await marked.wait()
            marked.clear()
            guest.write(p.encode_message(answer, 0, json.dumps(body).encode()))
    assert marks == ["handshake", "mounts", "exec"]


async def started(guest: FakeGuest, took_us: dict[FrameType, int]) -> list[tuple[str, float]]:
    """The marks of a start with files whose answers come in one breath."""
    guest.init.script.took_us = took_us
    marks: list[tuple[str, float]] = []
    files = [GuestFile("/a", b"x"), GuestFile("/b", b"")]
    async with await GuestChannel.connect(guest.path) as channel:
        await channel.start(CONFIGURE, files, mark=lambda phase, ago_s: marks.append((phase, ago_s)))
    return marks


async def test_answers_in_one_breath_are_told_apart_by_what_the_guest_says(guest: FakeGuest) -> None:
    marks = await started(guest, {FrameType.CONFIGURE: 4_000, FrameType.RUN: 2_000})
    assert marks == [("handshake", pytest.approx(0.006)), ("mounts", pytest.approx(0.002)), ("exec", 0.0)]


async def test_answers_in_one_breath_of_a_guest_that_says_nothing_are_one_phase(guest: FakeGuest) -> None:
    assert await started(guest, {}) == [("guest", 0.0)]


async def test_refused_start_names_the_step(guest: FakeGuest) -> None:
    guest.init.script.refuse = dict.fromkeys((FrameType.CONFIGURE, FrameType.RUN), "bad_disk")
    async with await GuestChannel.connect(guest.path) as channel:
        with pytest.raises(GuestRefused, match="refused configure") as caught:
            await channel.start(CONFIGURE)
        assert (caught.value.guest_code, caught.value.during) == ("bad_disk", "configure")
        guest.init.script.refuse = {}
        assert (await channel.start(CONFIGURE)).pid == 100


async def test_answer_that_comes_late_is_not_taken_for_the_next(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    guest.init.script.silent = frozenset({FrameType.QUIESCE, FrameType.WARM})
    with pytest.raises(DeadlineExceeded):
        await channel.warm(timeout_s=0.01)
    second = asyncio.ensure_future(channel.warm())
    await asyncio.sleep(0)
    guest.write(p.encode_message(FrameType.WARMED, 0, b"{}"))
    done, _ = await asyncio.wait([second], timeout=0.02)
    assert not done
    guest.write(p.encode_message(FrameType.WARMED, 0, b"{}"))
    await second


async def test_stats_and_ps(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.init.script.stats = {"load": [1]}
    guest.init.script.processes = (m.Process(pid=1, command="init"),)
    stats, processes = await asyncio.gather(channel.stats(), channel.ps())
    assert stats == {"load": [1]}
    assert processes[0].command == "init"


async def test_malformed_reply_fails_its_request_only(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.init.script.silent = frozenset({FrameType.PS})
    waiting = asyncio.ensure_future(channel.ps())
    request = await guest.wait_frame(FrameType.PS)
    guest.write(p.encode_message(FrameType.PS_REPLY, request.stream, b'{"processes": 7}'))
    with pytest.raises(ProtocolError):
        await waiting
    assert await channel.stats() == {}


async def test_write_file(guest: FakeGuest, channel: GuestChannel) -> None:
    await channel.write_file(GuestFile("/etc/x", b"z" * 300_000))
    assert guest.init.files["/etc/x"].content == b"z" * 300_000
    guest.init.script.refuse = {FrameType.FILE: "not_absolute", FrameType.FILE_DATA: "not_absolute"}
    with pytest.raises(GuestRefused, match="file"):
        await channel.write_file(GuestFile("x", b""))


async def test_exit_comes_to_every_waiter_and_to_later_ones(guest: FakeGuest, channel: GuestChannel) -> None:
    waiters = [asyncio.ensure_future(channel.wait_exit()) for _ in range(3)]
    waiters.pop().cancel()
    await channel.start(CONFIGURE)
    await channel.signal(15)
    assert [w.signal for w in await asyncio.gather(*waiters)] == [15, 15]
    assert guest.init.exit_acked
    async with await GuestChannel.connect(guest.path) as later:
        assert (await later.wait_exit()).signal == 15


async def test_exit_before_hello_ack_is_not_lost(guest: FakeGuest) -> None:
    async with await GuestChannel.connect(guest.path) as channel:
        guest.exit_main(m.GuestExit(exit_code=4))
        assert (await channel.wait_exit()).exit_code == 4


async def test_kill_ends_the_machine_and_then_the_channel(guest: FakeGuest, channel: GuestChannel) -> None:
    await channel.kill()
    assert (await channel.wait_ended()).signal == 9
    with pytest.raises(ChannelLost, match="without reporting its exit"):
        await channel.wait_exit()
    await channel.quit()


async def test_lost_connection_fails_what_is_under_way(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.init.script.silent = frozenset({FrameType.STATS})
    stats = asyncio.ensure_future(channel.stats())
    exit_ = asyncio.ensure_future(channel.wait_exit())
    async with channel.exec(m.ExecRequest(argv=("hang",))) as session:
        guest.drop_worker()
        with pytest.raises(ChannelLost):
            await session.exit()
    for future in (stats, exit_):
        with pytest.raises(ChannelLost):
            await future
    with pytest.raises(ChannelLost):
        await channel.stats()
    assert not channel.is_open


async def test_broken_guest_channel_fails_what_is_under_way(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.init.script.silent = frozenset({FrameType.STATS})
    stats = asyncio.ensure_future(channel.stats())
    await asyncio.sleep(0)
    error = m.ErrorReply(code="channel_broken", message="no frame", during="channel")
    guest.write(p.encode_message(FrameType.ERROR, 0, m.encode(error)))
    with pytest.raises(GuestRefused, match="no frame"):
        await stats


async def test_garbage_from_the_shim_ends_the_channel(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.write(b"\xff" * (p.RESYNC_BYTES_MAX + 1))
    with pytest.raises(ChannelLost) as caught:
        await channel.wait_ended()
    assert isinstance(caught.value.__cause__, ProtocolError)


async def test_new_hello_ends_the_old_session(guest: FakeGuest, channel: GuestChannel) -> None:
    async with channel.exec(m.ExecRequest(argv=("hang",))) as session:
        assert (await channel.hello()).state == "waiting"
        with pytest.raises(ChannelLost, match="opened anew"):
            await session.exit()
    assert (await channel.run_exec(m.ExecRequest(argv=("echo", "a")), timeout_s=PATIENCE_S)).stdout == b"a\n"


async def test_a_suspend_says_that_processes_are_to_stand_still(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    await channel.quiesce(freeze=True)
    await channel.hello(resume=True)
    await channel.quiesce()
    await channel.hello()
    said = [json.loads(frame.payload) for frame in guest.init.received[-4:]]
    assert [message.get("freeze") for message in said] == [True, None, False, None]
    assert [message.get("resume") for message in said] == [None, True, None, False]


async def test_quiesce_ends_the_session_until_hello(guest: FakeGuest, channel: GuestChannel) -> None:
    await channel.quiesce()
    assert channel.guest is None
    await channel.hello()
    await channel.resume(m.Resume(wall_clock_ns=1, entropy=b"e"))
