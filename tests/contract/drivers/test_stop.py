"""Ending machines: by signal, by force, and what must be left afterwards: nothing."""

from __future__ import annotations

import pytest

from tests.contract.drivers.kit import RUNS, STUBBORN, Kit, exits

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


async def test_a_signal_reaches_the_process(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.begun(spec)
    await kit.driver.signal(handle, 15)
    status = await kit.wait(handle)
    assert (status.exit_code, status.guest_signal) == (0, -1)


async def test_a_kill_ends_a_process_that_ignores_signals(kit: Kit) -> None:
    spec = kit.spec(STUBBORN)
    handle = await kit.start(spec)
    await kit.begun(spec)
    await kit.driver.signal(handle, 15)
    await kit.driver.kill(handle)
    status = await kit.wait(handle)
    assert (status.exit_code, 9 in (status.signal, status.guest_signal)) == (137, True)
    assert not status.oom_killed


async def test_signals_to_an_ended_machine_are_no_errors(kit: Kit) -> None:
    handle = await kit.start(kit.spec(exits(4)))
    await kit.wait(handle)
    await kit.driver.signal(handle, 15)
    await kit.driver.kill(handle)
    assert (await kit.wait(handle)).exit_code == 4


@pytest.mark.parametrize("ended", [True, False])
async def test_cleanup_leaves_nothing(kit: Kit, ended: bool) -> None:
    spec = kit.spec(exits() if ended else RUNS)
    await kit.driver.prepare(spec)
    before = kit.picture()
    handle = await kit.start(spec)
    if ended:
        await kit.wait(handle)
    await kit.driver.cleanup(spec.machine_id, handle)
    await kit.driver.cleanup(spec.machine_id, None)
    await kit.assert_nothing_left_since(before)


async def test_destroy_of_a_running_machine_leaves_nothing(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    await kit.driver.prepare(spec)
    before = kit.picture()
    await kit.start(spec)
    await kit.driver.destroy(spec.machine_id)
    await kit.driver.destroy(spec.machine_id)
    await kit.assert_nothing_left_since(before)


async def test_destroy_by_another_worker_leaves_nothing(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    await kit.driver.prepare(spec)
    before = kit.picture()
    await kit.start(spec)
    await kit.renew()
    await kit.driver.destroy(spec.machine_id)
    await kit.assert_nothing_left_since(before)


async def test_a_sweep_removes_strays_and_leaves_the_rest(kit: Kit) -> None:
    stray, known = kit.spec(RUNS), kit.spec(RUNS)
    handle = await kit.start(known)
    await kit.driver.prepare(stray)
    before = kit.picture()
    await kit.start(stray)
    await kit.renew()
    await kit.driver.recover(handle)
    assert await kit.driver.sweep({known.machine_id})
    await kit.assert_nothing_left_since(before)
    await kit.begun(known)
    await kit.driver.signal(handle, 15)
    assert (await kit.wait(handle)).exit_code == 0


async def test_a_machine_starts_again_after_cleanup(kit: Kit) -> None:
    spec = kit.spec(exits(1))
    for _ in range(3):
        handle = await kit.start(spec)
        assert (await kit.wait(handle)).exit_code == 1
        await kit.driver.cleanup(spec.machine_id, handle)
        spec = kit.again(spec)
