"""One run, one handle: a start that is repeated, and a handle whose run has ended or is another's."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from midge.drivers.base import HANDLE_VERSION, ExecRequest, Handle, Running
from midge.errors import HandleUnknown, NotRunning
from tests.contract.drivers.kit import RUNS, Kit, Marks, Program, exits

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

ENDS = Program("echo begun; exit 6", {"exit_after_ms": 0, "exit_code": 6, "output": "begun"})


async def _exec(kit: Kit, handle: Handle) -> None:
    async with kit.driver.exec(handle, ExecRequest(argv=["true"])):
        pass


# What asks something of a process that runs.
ASKS: dict[str, Callable[[Kit, Handle], Awaitable[Any]]] = {
    "exec": _exec,
    "ps": lambda kit, handle: kit.driver.ps(handle),
    "stats": lambda kit, handle: kit.driver.stats(handle),
}


async def _asks_are_refused(kit: Kit, handle: Handle) -> None:
    for name, ask in ASKS.items():
        with pytest.raises(NotRunning):
            await ask(kit, handle)
            pytest.fail(f"{name} was answered")


@pytest.mark.parametrize("next_worker", [False, True])
async def test_a_start_is_not_repeated_whose_process_has_ended(kit: Kit, next_worker: bool) -> None:
    spec = kit.spec(ENDS)
    first = await kit.start(spec)
    status = await kit.wait(first)
    if next_worker:
        await kit.renew()
    for _ in range(2):
        assert await kit.start(spec) == first
        assert await kit.wait(first) == status
    assert (status.exit_code, kit.log(spec).count("begun")) == (6, 1)
    await kit.driver.cleanup(spec.machine_id, first)
    with pytest.raises(NotRunning):
        await kit.wait(first)


async def test_a_start_is_not_repeated_whose_machine_was_killed(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    first = await kit.start(spec)
    await kit.begun(spec)
    await kit.driver.kill(first)
    assert (await kit.wait(first)).exit_code == 137
    await kit.renew()
    assert await kit.start(spec) == first
    assert (await kit.wait(first)).exit_code == 137
    assert kit.log(spec).count("begun") == 1


async def test_a_run_that_was_handed_back_gives_way_to_the_next_start(kit: Kit) -> None:
    spec = kit.spec(ENDS)
    first = await kit.start(spec)
    await kit.wait(first)
    await kit.renew()
    await kit.start(spec)
    second = await kit.start(kit.again(spec))
    assert (await kit.wait(second)).exit_code == 6
    assert kit.log(spec).count("begun") == 2
    with pytest.raises(NotRunning):
        await kit.wait(first)


@pytest.mark.parametrize("next_worker", [False, True])
async def test_a_run_that_has_ended_only_tells_its_exit(kit: Kit, next_worker: bool) -> None:
    spec = kit.spec(exits(4))
    handle = await kit.start(spec)
    await kit.wait(handle)
    if next_worker:
        await kit.renew()
        await kit.start(spec)
    await _asks_are_refused(kit, handle)
    await kit.driver.signal(handle, 15)
    await kit.driver.kill(handle)
    assert (await kit.wait(handle)).exit_code == 4


async def test_a_handle_of_another_start_does_not_reach_what_runs(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.begun(spec)
    other = msgspec.structs.replace(handle, start_id="other")
    with pytest.raises(NotRunning):
        await kit.wait(other)
    await _asks_are_refused(kit, other)
    if kit.driver.capabilities.suspend != "none":
        with pytest.raises(NotRunning):
            await kit.driver.suspend(msgspec.structs.replace(spec, start_id="other"), other)
    await kit.driver.signal(other, 15)
    await kit.driver.kill(other)
    assert (await kit.exec(handle, "echo", "still"))[0] == b"still\n"
    ended = asyncio.ensure_future(kit.wait(handle))
    await kit.driver.signal(handle, 15)
    assert (await ended).exit_code == 0


async def test_a_handle_of_a_run_that_is_gone_reaches_nothing(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.driver.cleanup(spec.machine_id, handle)
    with pytest.raises(NotRunning):
        await kit.wait(handle)
    await _asks_are_refused(kit, handle)
    await kit.driver.signal(handle, 15)
    await kit.driver.kill(handle)


async def test_a_resume_is_not_repeated_whose_process_has_ended(kit: Kit) -> None:
    if kit.driver.capabilities.suspend == "none":
        pytest.skip(f"the {kit.driver.name} driver does not suspend")
    first = kit.spec(RUNS)
    handle = await kit.start(first)
    await kit.begun(first)
    snapshot = await kit.driver.suspend(first, handle)
    await kit.driver.cleanup(first.machine_id, handle)
    again = kit.again(first)
    resumed = await kit.driver.resume(again, snapshot, Marks())
    await kit.driver.signal(resumed, 15)
    status = await kit.wait(resumed)
    await kit.renew()
    assert await kit.driver.resume(again, snapshot, Marks()) == resumed
    assert await kit.wait(resumed) == status
    assert (status.exit_code, kit.log(first).count("begun")) == (0, 1)


async def test_a_handle_of_another_version_is_refused_and_its_run_is_left_alone(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    handle = await kit.start(spec)
    await kit.begun(spec)
    await kit.renew()
    newer = msgspec.structs.replace(handle, version=HANDLE_VERSION + 1)
    verbs: dict[str, Callable[[], Awaitable[Any]]] = {
        "recover": lambda: kit.driver.recover(newer),
        "wait": lambda: kit.driver.wait(newer),
        "signal": lambda: kit.driver.signal(newer, 15),
        "kill": lambda: kit.driver.kill(newer),
        "suspend": lambda: kit.driver.suspend(spec, newer),
        "go_on": lambda: kit.driver.go_on(spec, newer, Marks()),
        **{name: functools.partial(ask, kit, newer) for name, ask in ASKS.items()},
    }
    for known in (False, True):  # to the driver, by a handle that it reads
        if known:
            assert await kit.driver.recover(handle) == Running(handle=handle)
        for name, verb in verbs.items():
            with pytest.raises(HandleUnknown, match=f"version {HANDLE_VERSION + 1}") as refused:
                await verb()
                pytest.fail(f"{name} was done")
            assert refused.value.hint
        await kit.driver.sweep({spec.machine_id})
    await kit.driver.signal(handle, 15)
    assert (await kit.wait(handle)).exit_code == 0
    assert kit.log(spec).count("begun") == 1
