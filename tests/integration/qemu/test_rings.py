"""What a template leaves out of its guest's memory is nothing the guest misses."""

from __future__ import annotations

import hashlib
import secrets

import pytest

from midge.drivers.qemu import rings
from midge.drivers.qemu.launch import QMP_SOCKET
from midge.drivers.qemu.qmp import Qmp
from tests.integration.qemu.house import House

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

# Two receive queues of virtio-serial, with a page for each of their 1024 entries, but for the few in use.
BLANKED_MIN_BYTES = 2 * 1000 * 4096
INPUT_BYTES = 300_000  # more than comes in one buffer, or in a few


async def test_a_guest_runs_on_whose_unused_buffers_were_blanked(house: House) -> None:
    machine = await house.run()
    name = house.vm(machine)
    qmp = await Qmp.connect(house.home / "run" / "m" / name / QMP_SOCKET)
    try:
        await qmp.execute("stop")
        blanked = rings.blank(house.home / "memory" / name, await rings.queues(qmp))
        await qmp.execute("cont")
    finally:
        qmp.close()
    assert blanked >= BLANKED_MIN_BYTES
    for _ in range(3):
        said = secrets.token_bytes(INPUT_BYTES)
        seen = await house.sh(machine, "sha256sum", said)
        assert seen.split()[0] == hashlib.sha256(said).hexdigest()
    await house.destroy(machine)
