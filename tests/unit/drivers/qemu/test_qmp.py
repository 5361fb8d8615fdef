"""The monitor, against a server that speaks as QEMU does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from midge.drivers.qemu.qmp import Qmp, QmpError, migration_is
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio


class Monitor:
    """The far end: what it was told, and what it says."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.fds: list[int] = []
        self._buffer = b""

    async def hear(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        while b"\n" not in self._buffer:
            readable = asyncio.Event()
            loop.add_reader(self._connection, readable.set)
            async with asyncio.timeout(PATIENCE_S):
                await readable.wait()
            loop.remove_reader(self._connection)
            data, fds, _, _ = socket.recv_fds(self._connection, 65_536, 4)
            self._buffer += data
            self.fds += fds
        line, _, self._buffer = self._buffer.partition(b"\n")
        heard: dict[str, Any] = msgspec.json.decode(line)
        return heard

    def say(self, *messages: Any) -> None:
        for message in messages:
            self._connection.sendall(msgspec.json.encode(message) + b"\r\n")

    def say_raw(self, data: bytes) -> None:
        self._connection.sendall(data)

    def hang_up(self) -> None:
        self._connection.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


@contextlib.asynccontextmanager
async def connected(tmp_path: Path, state_fd: int | None = None) -> AsyncIterator[tuple[Qmp, Monitor]]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "q"))
        listener.listen(1)
        qmp = await Qmp.connect(tmp_path / "q", state_fd=state_fd)
        monitor = Monitor(listener.accept()[0])
        try:
            assert await monitor.hear() == {"execute": "qmp_capabilities"}
            if state_fd is None:
                monitor.say({"QMP": {"version": {}}}, {"return": {}})
            yield qmp, monitor
        finally:
            qmp.close()
            monitor.hang_up()


async def test_hands_over_the_state_file(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("devices")
    with state.open("rb") as file:
        async with connected(tmp_path, file.fileno()) as (_, monitor):
            assert await monitor.hear() == {"execute": "getfd", "arguments": {"fdname": "state"}}
            (passed,) = monitor.fds
            assert os.pread(passed, 100, 0) == b"devices"


async def test_answers_belong_to_commands_in_their_order(tmp_path: Path) -> None:
    async with connected(tmp_path) as (qmp, monitor):
        first, second = qmp.post("stop"), qmp.post("query-status", verbose=True)
        assert await monitor.hear() == {"execute": "stop"}
        assert await monitor.hear() == {"execute": "query-status", "arguments": {"verbose": True}}
        monitor.say({"return": {}}, {"event": "STOP"}, {"return": {"running": False}})
        assert (await first, await second) == ({}, {"running": False})


async def test_a_refusal_is_an_error_and_the_next_command_works(tmp_path: Path) -> None:
    async with connected(tmp_path) as (qmp, monitor):
        bad, good = qmp.post("explode"), qmp.post("cont")
        monitor.say({"error": {"class": "CommandNotFound", "desc": "no such command"}}, {"return": 1})
        with pytest.raises(QmpError, match="explode: no such command"):
            await bad
        assert await good == 1


async def test_a_late_answer_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    async with connected(tmp_path) as (qmp, monitor):
        with pytest.raises(QmpError, match=r"migrate: no answer within 0\.01 s"):
            await qmp.execute("migrate", timeout_s=0.01)
        second = qmp.post("query-migrate")
        monitor.say({"return": "late"}, {"return": "second"})
        assert await second == "second"


async def test_lines_may_come_in_pieces_and_with_nonsense(tmp_path: Path) -> None:
    async with connected(tmp_path) as (qmp, monitor):
        answer = qmp.post("cont")
        monitor.say_raw(b'{"ret')
        await asyncio.sleep(0)
        monitor.say_raw(b'urn": 7}\r\n')
        assert await answer == 7
        answer = qmp.post("cont")
        monitor.say_raw(b'not json\n[1]\n{"return": 8}\n')
        assert await answer == 8


async def test_events_are_found_before_and_after_they_come(tmp_path: Path) -> None:
    async with connected(tmp_path) as (qmp, monitor):
        later = qmp.event(migration_is("completed", "failed"))
        setup = {"event": "MIGRATION", "data": {"status": "setup"}}
        monitor.say(setup, {"event": "STOP"}, {"event": "MIGRATION", "data": {"status": "completed"}})
        assert (await later)["data"]["status"] == "completed"
        assert (await qmp.event(lambda event: event["event"] == "STOP"))["event"] == "STOP"


async def test_who_waits_hears_that_qemu_is_gone(tmp_path: Path) -> None:
    async with connected(tmp_path) as (qmp, monitor):
        answer, event = qmp.post("cont"), qmp.event(migration_is("completed"))
        monitor.hang_up()
        for waiting in (answer, event):
            with pytest.raises(QmpError, match="closed its monitor"):
                await waiting
        for afterwards in (qmp.post("cont"), qmp.event(migration_is("completed"))):
            with pytest.raises(QmpError, match="closed its monitor"):
                await afterwards


async def test_nobody_at_the_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(QmpError, match="no monitor at"):
        await Qmp.connect(tmp_path / "none")
