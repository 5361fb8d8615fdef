from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

from midge.net import naming


def test_the_tag_depends_on_the_data_directory_alone(tmp_path: Path) -> None:
    tag = naming.instance_tag(tmp_path)
    assert naming.is_tag(tag)
    assert tag == naming.instance_tag(tmp_path / "x" / "..")
    assert tag != naming.instance_tag(tmp_path / "x")


def test_the_longest_interface_name_fits_the_kernel() -> None:
    name = naming.host_interface("abcdef", naming.SLOT_NUMBER_MAX)
    assert len(name) <= naming.INTERFACE_NAME_BYTES_MAX


def test_a_slot_is_known_by_its_name_and_only_by_its_own_instance() -> None:
    assert naming.slot_number("abcdef", naming.netns_name("abcdef", 17)) == 17
    for foreign in ("mg-abcde0-17", "mg-abcdef-", "mg-abcdef-x", "mg-abcdef-1 ", "mg-abcdef-\u0663", "17"):
        assert naming.slot_number("abcdef", foreign) is None


def test_a_machine_mac_is_local_unicast_and_carries_the_address() -> None:
    mac = naming.machine_mac(IPv4Address("10.61.1.254"))
    assert mac == "02:6d:0a:3d:01:fe"
    assert int(mac[:2], 16) & 0b11 == 0b10


def test_the_instance_number_fits_32_bits() -> None:
    assert naming.instance_number("ffffff") == 0x6DFFFFFF
