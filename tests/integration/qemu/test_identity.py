"""Two machines of one template are two machines, and the template knows nothing of either."""

from __future__ import annotations

import base64
import secrets

import pytest

from midge.drivers.configure import guest_machine_id
from tests.integration.qemu.house import ENVIRON, House, holds

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

WHO = (
    "hostname; cat /etc/machine-id; cat /sys/class/net/eth0/address; "
    "ip -4 -o addr show dev eth0 | awk '{print $4}'"
)
# What a process sees of itself: its environment is the machine's.
ENVIRONMENT = f"{ENVIRON} | grep ^ONLY_"


async def test_identity_is_the_machines_own(house: House) -> None:
    machines = [await house.run(env={f"ONLY_{n}": secrets.token_hex(8)}) for n in ("A", "B")]
    seen = {}
    for round_ in ("started", "resumed"):
        if round_ == "resumed":
            for machine in machines:
                await house.suspend(machine)
                assert (await house.start(machine))["resumed"]
        for machine in machines:
            hostname, machine_id, mac, address = (await house.sh(machine, WHO)).split()
            assert hostname == machine
            assert machine_id == guest_machine_id(machine)
            assert address == f"{house.host.get(machine).private_ip}/32"
            assert seen.setdefault(machine, (hostname, mac, address)) == (hostname, mac, address)
    for field in range(3):
        assert len({values[field] for values in seen.values()}) == 2
    environments = [await house.sh(machine, ENVIRONMENT) for machine in machines]
    assert ["ONLY_A=" in environments[0], "ONLY_B=" in environments[0]] == [True, False]
    assert ["ONLY_A=" in environments[1], "ONLY_B=" in environments[1]] == [False, True]
    for machine in machines:
        await house.destroy(machine)


async def test_no_secret_of_a_machine_is_in_a_template_or_a_slot(warm_house: House) -> None:
    house = warm_house
    secret = secrets.token_hex(24)
    # In pieces, so that neither the test's own words nor a command line is what is found.
    machine = await house.create(
        env={"SECRET": secret},
        files=[{"guest_path": "/secret", "raw_value": base64.b64encode(secret.encode()).decode()}],
    )
    await house.start(machine)
    await house.sh(machine, "cat /secret > /dev/shm/copy; sync")
    await house.warm()
    slots = {house.home / "memory" / slot for slot in house.slots()}
    layers = {house.data / "layers" / slot for slot in house.slots()}
    templates = [path for path in (house.data / "templates").resolve().rglob("*") if path.is_file()]
    assert slots
    assert {path.name for path in templates} >= {"memory", "state"}
    running = house.home / "memory" / house.vm(machine)
    assert holds(running, secret.encode()), "the search finds what is there"
    for path in [*slots, *layers, *templates]:
        assert not holds(path, secret.encode()), path
    await house.stop(machine)
    await house.warm()
    for slot in house.slots():
        assert not holds(house.home / "memory" / slot, secret.encode())
    await house.destroy(machine)
