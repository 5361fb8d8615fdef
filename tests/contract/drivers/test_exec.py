"""Commands in a running machine, and figures of it."""

from __future__ import annotations

import asyncio

import pytest

from midge.drivers.base import ExecRequest, Handle
from tests.contract.drivers.kit import DEADLINE_S, RUNS, Kit, Program, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


@pytest.fixture
async def running(kit: Kit) -> Handle:
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.begun(spec)
    return handle


async def test_output_and_code_of_a_command_come_back(kit: Kit, running: Handle) -> None:
    assert (await kit.exec(running, "echo", "hello", "there"))[0] == b"hello there\n"
    assert (await kit.exec(running, "false"))[1].exit_code == 1


async def test_a_command_reads_its_standard_input_to_the_end(kit: Kit, running: Handle) -> None:
    output, ended = await kit.exec(running, "cat", stdin=b"some\nlines\n")
    assert (output, ended.exit_code) == (b"some\nlines\n", 0)


async def test_a_command_that_takes_too_long_is_ended(kit: Kit, running: Handle) -> None:
    _, ended = await kit.exec(running, "sleep", "60", timeout_s=0.3)
    assert ended.timed_out
    assert ended.exit_code == 137


async def test_streams_are_told_apart(real: Kit, running: Handle) -> None:
    seen: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    request = ExecRequest(argv=["sh", "-c", "echo out; echo err >&2"])
    async with real.driver.exec(running, request) as session:
        async for stream, data in session.output():
            seen[stream] += data
    assert seen == {"stdout": b"out\n", "stderr": b"err\n"}


async def test_megabytes_pass_both_ways(real: Kit, running: Handle) -> None:
    data = bytes(range(256)) * 8192
    request = ExecRequest(argv=["cat"], stdin=True)
    received = bytearray()
    async with real.driver.exec(running, request) as session:

        async def feed() -> None:
            for at in range(0, len(data), 65_536):
                await session.write_stdin(data[at : at + 65_536])
            await session.close_stdin()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed())
            async for _, piece in session.output():
                received += piece
    assert received == data


async def test_a_command_has_its_own_user_directory_and_variables(real: Kit, running: Handle) -> None:
    output, _ = await real.exec(
        running, "sh", "-c", "id -u; pwd; echo $WORD", user="nobody", cwd="/tmp", env={"WORD": "x y"}
    )
    assert output.split(b"\n")[:3] == [b"65534", b"/tmp", b"x y"]


async def test_a_terminal_has_the_size_it_is_given(real: Kit, running: Handle) -> None:
    output, _ = await real.exec(running, "stty", "size", tty=True, rows=33, cols=101)
    assert output.split() == [b"33", b"101"]


async def test_a_terminal_can_be_resized(real: Kit, running: Handle) -> None:
    request = ExecRequest(argv=["sh", "-c", "read x; stty size"], tty=True, stdin=True)
    async with real.driver.exec(running, request) as session:
        await session.resize(50, 132)
        await session.write_stdin(b"go\n")
        output = b"".join([data async for _, data in session.output()])
    assert b"50 132" in output


async def test_a_signal_ends_a_command(real: Kit, running: Handle) -> None:
    async with real.driver.exec(running, ExecRequest(argv=["sleep", "60"])) as session:
        await session.signal(15)
        ended = await session.wait()
    assert (ended.exit_code, ended.signal) == (143, 15)


async def test_leaving_a_command_ends_it(real: Kit, running: Handle) -> None:
    async def seen() -> bool:
        return any("4242" in p["command"] for p in await real.driver.ps(running))

    async with asyncio.timeout(DEADLINE_S):
        async with real.driver.exec(running, ExecRequest(argv=["sleep", "4242"])):
            while not await seen():
                pass
        while await seen():
            pass


async def test_processes_are_listed(kit: Kit, running: Handle) -> None:
    processes = await kit.driver.ps(running)
    assert processes
    if kit.real:
        assert any("while :" in process["command"] for process in processes)


async def test_figures_are_given(kit: Kit, running: Handle) -> None:
    stats = await kit.driver.stats(running)
    assert "memory" in stats
    if kit.real:
        total = stats["memory"]["mem_total"]
        assert 128 << 20 < total <= 256 << 20


async def test_the_network_reaches_a_server_inside(real: Kit) -> None:
    script = "mkdir /www; echo served > /www/index.html; exec httpd -f -p 8080 -h /www"
    spec = real.spec(Program(script))
    await real.start(spec)
    assert spec.network is not None
    answer = b""

    async def ask() -> bytes:
        while True:
            try:
                reader, writer = await asyncio.open_connection(spec.network.ipv4, 8080)  # type: ignore[union-attr]
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            text = await reader.read()
            writer.close()
            return text

    async with asyncio.timeout(DEADLINE_S):
        answer = await ask()
    assert b"served" in answer


async def test_exec_works_for_the_next_worker_too(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.renew()
    await kit.driver.recover(handle)
    assert (await kit.exec(handle, "echo", "still"))[0] == b"still\n"
    await eventually(lambda: "begun" in kit.log(spec), "output")
