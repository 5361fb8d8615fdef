"""No two VMMs of a host share a user."""

from __future__ import annotations

import pytest

from midge.drivers.firecracker.jail import TEMPLATE_UID as FIRECRACKER_TEMPLATE_UID
from midge.drivers.qemu.boot import TEMPLATE_UID as QEMU_TEMPLATE_UID
from midge.drivers.vmm_user import FIRECRACKER_UID_BASE, QEMU_UID_BASE, UIDS, slot_uid
from midge.net.naming import SLOT_NUMBER_MAX

TAGS = ("000000", "000001", "abcfff", "ffffff")
NUMBERS = (1, 2, 16_383)


def test_slots_of_all_instances_and_drivers_have_different_users() -> None:
    made = [
        slot_uid(base, tag, number)
        for base in (QEMU_UID_BASE, FIRECRACKER_UID_BASE)
        for tag in ("000000", "000001", "abcffe", "ffffff")
        for number in NUMBERS
    ]
    assert len(set(made)) == len(made)
    assert QEMU_TEMPLATE_UID not in made
    assert FIRECRACKER_TEMPLATE_UID not in made


@pytest.mark.parametrize("tag", TAGS)
def test_users_stay_in_their_driver_s_range(tag: str) -> None:
    for number in NUMBERS:
        assert QEMU_UID_BASE <= slot_uid(QEMU_UID_BASE, tag, number) < QEMU_UID_BASE + UIDS
    assert QEMU_UID_BASE + UIDS <= FIRECRACKER_UID_BASE
    assert not FIRECRACKER_UID_BASE <= FIRECRACKER_TEMPLATE_UID < FIRECRACKER_UID_BASE + UIDS


def test_the_user_is_the_slot_s() -> None:
    assert slot_uid(FIRECRACKER_UID_BASE, "abc001", 7) == 0x64000000 + (1 << 14) + 7


def test_no_two_slots_that_a_pool_can_make_share_a_user() -> None:
    uids = {slot_uid(FIRECRACKER_UID_BASE, "abc001", number) for number in range(SLOT_NUMBER_MAX + 1)}
    assert len(uids) == SLOT_NUMBER_MAX + 1
