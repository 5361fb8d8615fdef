"""What the next worker finds."""

from __future__ import annotations

import asyncio

import pytest

from midge.drivers.base import Exited, Handle, Lost, Running
from tests.contract.drivers.kit import DEADLINE_S, RUNS, Kit, Program

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


async def test_a_running_machine_is_taken_over(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.renew()
    assert await kit.driver.recover(handle) == Running(handle=handle)
    await kit.begun(spec)
    await kit.driver.signal(handle, 15)
    assert (await kit.wait(handle)).exit_code == 0
    assert kit.log(spec).count("begun") == 1


async def test_an_exit_that_nobody_saw_is_reported_with_its_code_and_all_output(kit: Kit) -> None:
    program = Program(
        "sleep 0.3; seq 1 5000; exit 9", {"exit_after_ms": 100, "exit_code": 9, "output": "5000"}
    )
    spec = kit.spec(program)
    handle = await kit.start(spec)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            await kit.renew()
            found = await kit.driver.recover(handle)
            if not isinstance(found, Running):
                break
            await asyncio.sleep(0.2)
    assert isinstance(found, Exited)
    assert found.status.exit_code == 9
    assert "5000" in kit.log(spec).split()
    await kit.driver.cleanup(spec.machine_id, handle)


async def test_a_machine_that_is_gone_is_lost(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.driver.cleanup(spec.machine_id, handle)
    await kit.renew()
    assert isinstance(await kit.driver.recover(handle), Lost)


async def test_a_handle_of_another_start_is_lost(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    other = Handle(driver=handle.driver, machine_id=handle.machine_id, start_id="other", data=handle.data)
    assert isinstance(await kit.driver.recover(other), Lost)


async def test_recovering_twice_is_no_harm(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.renew()
    for _ in range(2):
        assert await kit.driver.recover(handle) == Running(handle=handle)
    await kit.driver.kill(handle)
    assert (await kit.wait(handle)).exit_code == 137
