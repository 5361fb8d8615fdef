"""What makes a snapshot void."""

from __future__ import annotations

import msgspec
import pytest

from midge.machine.config import MachineConfig
from midge.worker.host import UpdateMachine
from tests.integration.qemu.house import ENVIRON, House

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]


async def test_stop_of_a_suspended_machine_discards_its_memory(either: House) -> None:
    house = either
    before = house.picture()
    for on_disk in (False, True):
        machine = await house.run()
        await house.sh(machine, "echo here > /dev/shm/mark; echo here > /mark")
        await house.suspend(machine)
        if on_disk:
            await house.on_disk(machine)
        await house.stop(machine)
        assert not house.saved(machine).exists()
        assert not house.hot(machine).exists()
        await house.assert_nothing_left_since(before)
        assert (await house.start(machine)) == {"resumed": False}
        assert await house.sh(machine, "ls /dev/shm/mark /mark 2>/dev/null | wc -l") == "0\n"
        await house.destroy(machine)


async def test_an_update_of_a_suspended_machine_means_a_cold_start(either: House) -> None:
    house = either
    machine = await house.run(env={"WHICH": "old"})
    await house.sh(machine, "echo here > /dev/shm/mark")
    await house.suspend(machine)
    raw = msgspec.json.decode(house.host.get(machine).config)
    raw["env"] = {"WHICH": "new"}
    config_json = msgspec.json.encode(raw)
    config = msgspec.json.decode(config_json, type=MachineConfig)
    await house.host.update(machine, UpdateMachine(config=config, config_json=config_json))
    await house.reach(machine, "stopped", "started")
    assert not house.saved(machine).exists()
    assert not house.hot(machine).exists()
    if house.state(machine) != "started":
        await house.start(machine)
    assert house.start_event(machine)["resumed"] is False
    assert await house.sh(machine, "ls /dev/shm/mark 2>/dev/null | wc -l") == "0\n"
    assert "WHICH=new" in await house.sh(machine, ENVIRON)
    await house.destroy(machine)


async def test_destroy_of_a_suspended_machine_leaves_nothing(either: House) -> None:
    house = either
    before = house.picture()
    machine = await house.run()
    await house.suspend(machine)
    await house.destroy(machine)
    await house.assert_nothing_left_since(before)
