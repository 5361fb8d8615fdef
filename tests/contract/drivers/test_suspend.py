"""Suspending and resuming, as far as a driver's capability goes."""

from __future__ import annotations

import asyncio

import pytest

from midge.drivers.base import Handle
from midge.drivers.pool_settings import ParkedSettings
from midge.errors import NotSupported, SnapshotUnusable
from midge.machine.spec import MachineSpec
from tests.contract.drivers.kit import DEADLINE_S, RUNS, Kit, Marks, Program

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

# Says once who it is; counts for as long as it runs.
COUNTER = Program(
    "trap 'exit 0' TERM; cat /proc/sys/kernel/random/uuid > /tmp/id; n=0; echo 0 > /tmp/n; echo begun;"
    "while :; do n=$((n+1)); echo $n > /tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.02; done",
    {"output": "begun"},
)


@pytest.fixture(params=[False, True], ids=["", "parked"])
async def suspending(kit: Kit, request: pytest.FixtureRequest) -> Kit:
    """A driver that can suspend; once more with the VMs of suspended machines kept, where it does that."""
    if request.param:
        if kit.driver.name != "qemu":
            pytest.skip(f"{kit.driver.name} keeps no VM of a suspended machine")
        await kit.reconfigure(parked=ParkedSettings())
    if kit.driver.capabilities.suspend == "none":
        spec = kit.spec(RUNS)
        handle = await kit.start(spec)
        with pytest.raises(NotSupported):
            await kit.driver.suspend(spec, handle)
        pytest.skip(f"{kit.driver.name} cannot suspend, and says so")
    return kit


async def suspend(kit: Kit, spec: MachineSpec, handle: Handle) -> dict[str, object]:
    """As the worker does it."""
    async with asyncio.timeout(DEADLINE_S):
        record = await kit.driver.suspend(spec, handle)
        await kit.driver.cleanup(spec.machine_id, handle)
    return record


@pytest.mark.parametrize("renewed", [False, True])
async def test_a_resumed_machine_goes_on_where_it_was(suspending: Kit, renewed: bool) -> None:
    kit = suspending
    spec = kit.spec(COUNTER)
    handle = await kit.start(spec)
    await kit.begun(spec)
    identity = (await kit.exec(handle, "cat", "/tmp/id"))[0] if kit.real else b""
    record = await suspend(kit, spec, handle)
    if renewed:
        await kit.renew()
        await kit.driver.sweep({spec.machine_id})
    resumed = kit.again(spec)
    new = await kit.driver.resume(resumed, record, Marks())
    assert new.start_id == resumed.start_id
    if kit.real:
        assert (await kit.exec(new, "cat", "/tmp/id"))[0] == identity
    await kit.driver.signal(new, 15)
    assert (await kit.wait(new)).exit_code == 0
    assert kit.log(spec).count("begun") == 1


async def test_a_suspended_machine_stands_still(suspending: Kit) -> None:
    kit = suspending
    if not kit.real:
        pytest.skip("mock machines run no programs")
    spec = kit.spec(COUNTER)
    handle = await kit.start(spec)
    await kit.begun(spec)
    record = await suspend(kit, spec, handle)
    await asyncio.sleep(0.5)  # some 25 rounds of the counter, if it ran
    new = await kit.driver.resume(kit.again(spec), record, Marks())
    before = int((await kit.exec(new, "cat", "/tmp/n"))[0] or 0)
    async with asyncio.timeout(DEADLINE_S):
        while int((await kit.exec(new, "cat", "/tmp/n"))[0] or 0) <= before:
            pass


async def test_a_repeated_resume_is_the_first(suspending: Kit) -> None:
    kit = suspending
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.begun(spec)
    record = await suspend(kit, spec, handle)
    resumed = kit.again(spec)
    first = await kit.driver.resume(resumed, record, Marks())
    await kit.renew()
    assert await kit.driver.resume(resumed, record, Marks()) == first
    await kit.driver.signal(first, 15)
    assert (await kit.wait(first)).exit_code == 0


async def test_machines_are_suspended_and_resumed_again_and_again(suspending: Kit) -> None:
    kit = suspending
    spec = kit.spec(COUNTER)
    handle = await kit.start(spec)
    await kit.begun(spec)
    for _ in range(3):
        record = await suspend(kit, spec, handle)
        spec = kit.again(spec)
        handle = await kit.driver.resume(spec, record, Marks())
    await kit.driver.kill(handle)
    assert (await kit.wait(handle)).exit_code == 137


async def test_a_discarded_snapshot_leaves_nothing(suspending: Kit) -> None:
    kit = suspending
    spec = kit.spec(RUNS)
    await kit.driver.prepare(spec)
    before = kit.picture()
    handle = await kit.start(spec)
    record = await suspend(kit, spec, handle)
    for _ in range(2):
        await kit.driver.discard_snapshot(spec.machine_id, record)
    await kit.driver.cleanup(spec.machine_id, None)
    await kit.assert_nothing_left_since(before)
    with pytest.raises(SnapshotUnusable):
        await kit.driver.resume(kit.again(spec), record, Marks())


async def test_destroy_removes_a_suspended_machine(suspending: Kit) -> None:
    kit = suspending
    spec = kit.spec(RUNS)
    await kit.driver.prepare(spec)
    before = kit.picture()
    handle = await kit.start(spec)
    await suspend(kit, spec, handle)
    await kit.renew()
    await kit.driver.destroy(spec.machine_id)
    await kit.assert_nothing_left_since(before)


async def test_a_cold_start_takes_the_place_of_a_suspended_machine(suspending: Kit) -> None:
    kit = suspending
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.begun(spec)
    record = await suspend(kit, spec, handle)
    await kit.driver.discard_snapshot(spec.machine_id, record)
    fresh = kit.again(spec)
    new = await kit.start(fresh)
    await kit.driver.kill(new)
    assert (await kit.wait(new)).exit_code == 137


async def test_a_suspend_that_is_taken_back_at_any_moment_leaves_the_same_process(suspending: Kit) -> None:
    kit = suspending
    spec = kit.spec(COUNTER)
    handle = await kit.start(spec)
    await kit.begun(spec)
    for delay_s in (0.0, 0.003, 0.01, 0.02, 0.05):
        suspending_ = asyncio.create_task(kit.driver.suspend(spec, handle))
        await asyncio.sleep(delay_s)
        suspending_.cancel()
        await asyncio.wait([suspending_])
        for _ in range(2):
            spec = kit.again(spec)
            async with asyncio.timeout(DEADLINE_S):
                handle = await kit.driver.go_on(spec, handle, Marks())
        if kit.real:
            before = int((await kit.exec(handle, "cat", "/tmp/n"))[0] or 0)
            async with asyncio.timeout(DEADLINE_S):
                while int((await kit.exec(handle, "cat", "/tmp/n"))[0] or 0) <= before:
                    pass
    await kit.driver.signal(handle, 15)
    assert (await kit.wait(handle)).exit_code == 0
    assert kit.log(spec).count("begun") == 1


async def test_what_ended_during_a_suspend_is_no_secret(suspending: Kit) -> None:
    kit = suspending
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.begun(spec)
    await kit.driver.kill(handle)
    await kit.wait(handle)
    await kit.driver.cleanup(spec.machine_id, handle)
    with pytest.raises(SnapshotUnusable):
        await kit.driver.go_on(kit.again(spec), handle, Marks())
