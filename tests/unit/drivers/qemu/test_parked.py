"""The bounds of parked VMs, and that whoever needs one gone can wait for it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midge.drivers.pool_settings import ParkedSettings
from midge.drivers.qemu import parked
from midge.drivers.qemu.parked import ParkedVm, ParkedVms, cost_mb, has_room, surplus
from midge.errors import DriverError
from tests.deadlines import PATIENCE_S

PLENTY = 0.5
SETTINGS = ParkedSettings(vms_max=2, memory_mb=300, age_s=60.0)


@dataclass
class Cost:
    cost_mb: int
    since_s: float


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cost", "settings", "ratio", "room"),
    [
        (300, SETTINGS, PLENTY, True),
        (301, SETTINGS, PLENTY, False),
        (1, SETTINGS, 0.05, False),
        (1, replace(SETTINGS, vms_max=0), PLENTY, False),
    ],
)
def test_whether_a_vm_is_parked_at_all(cost: int, settings: ParkedSettings, ratio: float, room: bool) -> None:
    assert has_room(cost, settings, ratio) is room


@pytest.mark.parametrize(
    ("costs", "now_s", "ratio", "gone"),
    [
        ([], 0.0, PLENTY, 0),
        ([(100, 0.0), (100, 1.0)], 2.0, PLENTY, 0),
        ([(100, 0.0), (100, 1.0), (100, 2.0)], 2.0, PLENTY, 1),  # too many
        ([(200, 0.0), (200, 1.0)], 2.0, PLENTY, 1),  # too large together
        ([(100, 0.0), (100, 30.0)], 60.0, PLENTY, 1),  # too old
        ([(100, 0.0), (100, 1.0)], 2.0, 0.05, 2),  # others need the memory
    ],
)
def test_the_oldest_go_first(costs: list[tuple[int, float]], now_s: float, ratio: float, gone: int) -> None:
    assert surplus([Cost(*cost) for cost in costs], SETTINGS, now_s, ratio) == gone


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 100)), max_size=8), st.floats(0, 200))
def test_what_is_left_is_within_every_bound_and_no_more_goes_than_must(
    costs: list[tuple[int, float]], now_s: float
) -> None:
    vms = [Cost(*cost) for cost in sorted(costs, key=lambda cost: cost[1])]
    gone = surplus(vms, SETTINGS, now_s, PLENTY)

    def fits(left: list[Cost]) -> bool:
        return (
            len(left) <= SETTINGS.vms_max
            and sum(vm.cost_mb for vm in left) <= SETTINGS.memory_mb
            and all(vm.since_s + SETTINGS.age_s > now_s for vm in left)
        )

    assert fits(vms[gone:])
    assert gone == 0 or not fits(vms[gone - 1 :])


def test_a_vm_costs_its_guests_memory_and_its_own(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    with memory.open("wb") as file:
        file.truncate(1024 * 1024 * 1024)
        file.write(b"x" * 4 * 1024 * 1024)
    assert 5 <= cost_mb(memory, os.getpid()) < 1024
    assert cost_mb(memory, 2**22 + 1) == 4


# ── parking and ending ────────────────────────────────────────────────────────────────────────────────────────────


class Yard:
    """Parked VMs of no host. `hold` keeps the end of a VMM, or the removal of the rest, until it is set."""

    def __init__(self, settings: ParkedSettings = SETTINGS) -> None:
        self.ratio = PLENTY
        self.ended: list[str] = []
        self.removed: list[str] = []
        self.hold_vmm = asyncio.Event()
        self.hold_rest = asyncio.Event()
        self.hold_vmm.set()
        self.hold_rest.set()
        self.broken = False
        self.vms = ParkedVms(
            settings, end_vmm=self._end, remove=self._remove, available_ratio=lambda: self.ratio
        )

    async def _end(self, vm: ParkedVm) -> None:
        await self.hold_vmm.wait()
        if self.broken:
            raise DriverError("it does not die")
        self.ended.append(vm.machine_id)

    async def _remove(self, vm: ParkedVm) -> None:
        await self.hold_rest.wait()
        self.removed.append(vm.machine_id)

    def park(self, machine_id: str, cost_mb: int = 100) -> None:
        self.vms.park(Standing(machine_id, f"vm-{machine_id}", None, None, cost_mb))  # type: ignore[arg-type]


class Standing(ParkedVm):
    """Of whose processes nobody asks the host."""

    __slots__ = ("dead",)

    @property
    def is_alive(self) -> bool:
        return not getattr(self, "dead", False)


pytestmark = pytest.mark.anyio


async def test_a_vm_is_taken_once() -> None:
    yard = Yard()
    yard.park("a")
    assert yard.vms.names() == {"vm-a"}
    assert (vm := yard.vms.take("a")) is not None
    assert vm.machine_id == "a"
    assert yard.vms.take("a") is None
    assert yard.vms.statistics() == {"parked": 0, "memory_mb": 0, "resumed": 1, "evicted": 0}
    await yard.vms.aclose()
    assert yard.ended == []


async def test_one_too_many_ends_the_oldest() -> None:
    yard = Yard()
    for machine_id in "abc":
        yard.park(machine_id)
    await yard.vms.gone("a")
    assert (yard.ended, yard.removed) == (["a"], ["a"])
    assert yard.vms.statistics()["parked"] == 2
    await yard.vms.aclose()
    assert yard.removed == ["a", "b", "c"]


async def test_a_dead_one_is_not_taken() -> None:
    yard = Yard()
    yard.park("a")
    vm = yard.vms._parked["a"]
    vm.dead = True  # type: ignore[attr-defined]
    assert yard.vms.take("a") is None
    await yard.vms.gone("a")
    assert yard.removed == ["a"]


async def test_who_wants_the_files_waits_for_the_vmm_and_who_wants_the_address_for_all() -> None:
    yard = Yard()
    yard.park("a")
    yard.hold_vmm.clear()
    yard.hold_rest.clear()
    files = asyncio.create_task(yard.vms.vmm_gone("a"))
    address = asyncio.create_task(yard.vms.gone("a"))
    await asyncio.sleep(0)
    assert yard.vms.take("a") is None, "it is being ended"
    yard.hold_vmm.set()
    await files
    assert not address.done()
    yard.hold_rest.set()
    await address
    assert yard.removed == ["a"]
    await yard.vms.vmm_gone("a")
    await yard.vms.gone("never parked")


async def test_who_waits_does_not_wait_for_ever_for_one_that_cannot_be_ended() -> None:
    yard = Yard()
    yard.broken = True
    yard.park("a")
    async with asyncio.timeout(PATIENCE_S):
        await yard.vms.vmm_gone("a")
        await yard.vms.gone("a")
    assert yard.removed == []


async def test_age_and_memory_are_looked_at_by_the_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "PRESSURE_LOOK_S", 0.01)
    for settings, ratio in ((replace(SETTINGS, age_s=0.01), PLENTY), (SETTINGS, 0.05)):
        yard = Yard(settings)
        keeper = asyncio.create_task(yard.vms.run())
        yard.park("a")
        yard.ratio = ratio
        async with asyncio.timeout(PATIENCE_S):
            while yard.removed != ["a"]:  # noqa: ASYNC110 (the keeper makes no sound)
                await asyncio.sleep(0.005)
        keeper.cancel()
        await asyncio.wait([keeper])
