"""Nothing of a machine is in the next one: neither on its disk nor in a cache."""

from __future__ import annotations

import secrets

import pytest

from tests.integration.qemu.house import House, holds

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

PLACES = ("/left", "/etc/passwd", "/bin/left", "/tmp/left", "/dev/shm/left", "/run/left")
ROUNDS = 4


async def test_the_next_start_finds_the_image_as_it_was(warm_house: House) -> None:
    house = warm_house
    machine = await house.create()
    other = await house.create()
    kinds = set()
    clean = ""
    for number in range(ROUNDS):
        who = machine if number % 2 else other
        if number > 1:
            await house.warm()
        await house.start(who)
        kinds.add("slot" if "slot" in house.phases(who) else "restore")
        look = "cat /etc/passwd /etc/os-release | md5sum; ls -a / /bin /tmp /dev/shm /run /etc | md5sum; ls /bin/vi"
        state = await house.sh(who, look)
        clean = clean or state
        assert state == clean
        marker = secrets.token_hex(16)
        for place in PLACES:
            await house.sh(who, f"echo {marker} >> {place}")
        await house.sh(who, "rm /bin/vi; sync")
        vm = house.vm(who)
        assert holds(house.data / "layers" / vm, marker.encode()), "the search finds what is there"
        await house.stop(who)
        assert not (house.data / "layers" / vm).exists()
        assert not (house.home / "memory" / vm).exists()
        for slot in house.slots():
            for path in (house.home / "memory" / slot, house.data / "layers" / slot):
                assert not holds(path, marker.encode())
    assert "slot" in kinds
    for one in (machine, other):
        await house.destroy(one)
