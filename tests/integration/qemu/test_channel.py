"""After a resume the machine can be reached again, from outside and by its operator."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.integration.qemu.house import DEADLINE_S, House, elapsed_ms, figure

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

ROUNDS = 5
ATTEMPT_S = 15.0  # of a connection to a server that may not listen yet
ANSWER_S = 1.0  # nobody answers for a machine that stands still; looked for as long
COUNTS = "n=0; trap 'n=$((n+1)); echo \"GOT $n\"' USR1; echo READY; while :; do sleep 0.05; done"
SERVER = "echo hello > /index.html; exec httpd -f -p 8080 -h /"


async def test_commands_signals_and_output_work_again_after_each_resume(either: House) -> None:
    house = either
    machine = await house.run(COUNTS)
    await house.line(machine, "READY")  # before that, the signal would end it
    to_exec_ms, suspend_ms = [], []
    for number in range(1, ROUNDS + 1):
        begun = time.perf_counter()
        await house.suspend(machine)
        suspend_ms.append(elapsed_ms(begun))
        begun = time.perf_counter()
        assert (await house.start(machine))["resumed"]
        assert await house.sh(machine, "cat", stdin=b"there and back") == "there and back"
        to_exec_ms.append(elapsed_ms(begun))
        await house.host.signal(machine, 10)
        await house.line(machine, f"GOT {number}")
        assert any("trap" in p["command"] for p in await house.host.ps(machine))
    figure("suspend", suspend_ms)
    figure("resume to exec", to_exec_ms)
    await house.destroy(machine)


async def test_an_exec_under_way_ends_and_does_not_hang(either: House) -> None:
    house = either
    machine = await house.run()
    running = asyncio.create_task(house.sh(machine, "echo on; sleep 1000000"))
    await eventually_ps(house, machine, "sleep 1000000", 2)
    await house.suspend(machine)
    done, _ = await asyncio.wait([running], timeout=DEADLINE_S)
    assert done, "whoever waits for a command learns that its machine was suspended"
    assert running.exception() is not None
    assert not isinstance(running.exception(), TimeoutError), "and not by his own patience"
    assert (await house.start(machine))["resumed"]
    assert await house.sh(machine, "echo again") == "again\n"
    # A command of the old session is no longer anybody's: it is ended.
    await eventually_ps(house, machine, "sleep 1000000", 1)
    await house.destroy(machine)


async def test_a_listener_is_reachable_after_each_resume(either: House) -> None:
    house = either
    machine = await house.run(SERVER)
    assert "hello" in await _get(house.host.address(machine))
    for _ in range(ROUNDS):
        await house.suspend(machine)
        with pytest.raises(OSError):
            await _get(house.host.get(machine).private_ip, once=True)
        assert (await house.start(machine))["resumed"]
        assert "hello" in await _get(house.host.address(machine))
    await house.destroy(machine)


async def eventually_ps(house: House, machine: str, command: str, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        processes = await house.host.ps(machine)
        if sum(command in p["command"] for p in processes) == count:
            return
        assert time.monotonic() < deadline, f"not {count} times {command!r}: {processes}"
        await asyncio.sleep(0.05)


async def _get(address: str, *, once: bool = False) -> str:
    """The answer of the web server; a server that is just starting is given time."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            async with asyncio.timeout(ANSWER_S if once else ATTEMPT_S):
                reader, writer = await asyncio.open_connection(address, 8080)
                try:
                    writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
                    return (await reader.read()).decode()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            if once or time.monotonic() > deadline:
                raise OSError("no answer") from error
            await asyncio.sleep(0.05)
