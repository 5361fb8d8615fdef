"""Execs over a channel: streams, windows, limits, ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from midge.guest import exec as exec_module
from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.channel import GuestChannel
from midge.guest.errors import ExecEnded, GuestRefused, ProtocolError
from midge.guest.protocol import FrameType
from midge.testing.fake_guest import FakeGuest
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[FakeGuest]:
    async with FakeGuest(tmp_path / "s") as guest:
        yield guest


@pytest.fixture
async def channel(guest: FakeGuest) -> AsyncIterator[GuestChannel]:
    async with await GuestChannel.connect(guest.path) as channel:
        await channel.hello()
        yield channel


def _request(*argv: str, stdin: bool = False) -> m.ExecRequest:
    return m.ExecRequest(argv=argv, stdin=stdin)


async def test_collects_both_streams_and_the_code(channel: GuestChannel) -> None:
    result = await channel.run_exec(_request("warn", "careful"), timeout_s=PATIENCE_S)
    assert (result.exit_code, result.stdout, result.stderr) == (1, b"", b"careful\n")
    assert not result.truncated


async def test_output_larger_than_the_window_arrives_whole(channel: GuestChannel) -> None:
    size = 3 * p.WINDOW_BYTES + 5
    result = await channel.run_exec(_request("yes", str(size)), timeout_s=PATIENCE_S)
    assert len(result.stdout) == size


async def test_output_over_the_limit_is_cut_and_the_process_still_ends(channel: GuestChannel) -> None:
    request = _request("yes", str(4 * p.WINDOW_BYTES))
    result = await channel.run_exec(request, timeout_s=PATIENCE_S, output_max_bytes=1000)
    assert (len(result.stdout), result.truncated, result.exit_code) == (1000, True, 0)


async def test_stdin_larger_than_the_window_comes_back(channel: GuestChannel) -> None:
    data = bytes(range(256)) * 4096
    result = await channel.run_exec(_request("cat"), data, timeout_s=PATIENCE_S)
    assert result.stdout == data


async def test_process_that_does_not_want_its_input_is_no_error(channel: GuestChannel) -> None:
    result = await channel.run_exec(_request("exit", "7"), b"x" * (2 * p.WINDOW_BYTES), timeout_s=PATIENCE_S)
    assert result.exit_code == 7


async def test_missing_command_is_refused(channel: GuestChannel) -> None:
    with pytest.raises(GuestRefused) as caught:
        await channel.run_exec(_request("nonsense"), b"x", timeout_s=PATIENCE_S)
    assert caught.value.guest_code == "not_found"


async def test_guest_that_ignores_the_time_limit_is_given_up(
    guest: FakeGuest, channel: GuestChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midge.guest.collect.EXEC_GRACE_S", 0.01)
    result = await channel.run_exec(_request("hang"), timeout_s=0.01)
    assert result.timed_out
    assert (await channel.run_exec(_request("echo"), timeout_s=PATIENCE_S)).exit_code == 0
    sent = [f.type for f in guest.init.received]
    assert FrameType.EXEC_SIGNAL in sent


async def test_interactive_session(channel: GuestChannel) -> None:
    async with channel.exec(_request("cat", stdin=True)) as session:
        assert session.pid > 0
        await session.resize(30, 100)
        await session.write_stdin(b"one")
        assert await anext(session) == ("stdout", b"one")
        await session.close_stdin()
        await session.close_stdin()
        with pytest.raises(ExecEnded):
            await session.write_stdin(b"two")
        assert [piece async for piece in session] == []
        assert (await session.exit()).exit_code == 0
        with pytest.raises(ExecEnded):
            await session.write_stdin(b"two")


async def test_leaving_kills_and_frees_the_stream(guest: FakeGuest, channel: GuestChannel) -> None:
    async with channel.exec(_request("hang")):
        pass
    assert (
        await channel.run_exec(_request("echo", "still", "here"), timeout_s=PATIENCE_S)
    ).stdout == b"still here\n"


async def test_unread_output_is_bounded(guest: FakeGuest, channel: GuestChannel) -> None:
    async with channel.exec(_request("hang")) as session:
        guest.write(p.encode_frame(FrameType.EXEC_OUTPUT, session.stream, b"x" * 65_536) * 5)
        await channel.ps()
        with pytest.raises(ProtocolError, match="granted"):
            await session.exit()


async def test_small_pieces_are_joined(guest: FakeGuest, channel: GuestChannel) -> None:
    async with channel.exec(_request("hang")) as session:
        guest.write(p.encode_frame(FrameType.EXEC_OUTPUT, session.stream, b"x") * 1000)
        await channel.ps()
        name, data = await anext(session)
        assert (name, len(data)) == ("stdout", 1000)


async def test_number_of_execs_is_bounded(channel: GuestChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midge.guest.session.EXECS_MAX", 1)
    async with channel.exec(_request("hang")):
        with pytest.raises(GuestRefused, match="run already"):
            channel.exec(_request("hang"))


async def test_cancelled_start_of_an_exec_leaves_the_channel_sane(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    guest.init.script.silent = frozenset({FrameType.EXEC})
    task = asyncio.ensure_future(channel.run_exec(_request("echo"), timeout_s=PATIENCE_S))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    guest.init.script.silent = frozenset()
    results = await asyncio.gather(
        *(channel.run_exec(_request("echo", str(n)), timeout_s=PATIENCE_S) for n in range(20))
    )
    assert [r.stdout for r in results] == [f"{n}\n".encode() for n in range(20)]


async def test_windows_are_granted_in_pieces(guest: FakeGuest, channel: GuestChannel) -> None:
    await channel.run_exec(_request("yes", str(p.WINDOW_BYTES)), timeout_s=PATIENCE_S)
    grants = [p.decode_window(f) for f in guest.init.received if f.type == FrameType.WINDOW]
    assert all(grant >= exec_module.WINDOW_GRANT_BYTES for grant in grants)
