from __future__ import annotations

import pytest

from midge.errors import InvalidInput
from midge.kernel import kconfig, trimmed


def test_fragment_is_parsed() -> None:
    text = '# why\nCONFIG_A=y\n\n# CONFIG_B is not set\nCONFIG_C="-x"\nCONFIG_D=0x1f\n'
    assert kconfig.parse(text) == {"CONFIG_A": "y", "CONFIG_B": "n", "CONFIG_C": '"-x"', "CONFIG_D": "0x1f"}


@pytest.mark.parametrize("text", ["CONFIG_A", "A=y", "CONFIG_A=", "CONFIG_A=y\nCONFIG_A=n", "CONFIG_A =y"])
def test_broken_lines_are_refused_with_their_number(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"line [12] of"):
        kconfig.parse(text)


def test_dropped_options_are_named() -> None:
    wanted = {"CONFIG_A": "y", "CONFIG_B": "n", "CONFIG_C": "64"}
    assert kconfig.dropped(wanted, {"CONFIG_A": "y", "CONFIG_C": "64"}) == []
    assert kconfig.dropped(wanted, {"CONFIG_B": "y", "CONFIG_C": "8"}) == [
        "CONFIG_A=y (is: n)",
        "CONFIG_B=n (is: y)",
        "CONFIG_C=64 (is: 8)",
    ]


def test_the_build_refuses_a_configuration_that_lost_options() -> None:
    with pytest.raises(InvalidInput, match=r"dropped 1 options: CONFIG_B=y \(is: n\)"):
        trimmed.check("CONFIG_A=y\nCONFIG_B=y\n", "CONFIG_A=y\n# CONFIG_B is not set\n")


def test_the_fragment_in_the_package_is_sound() -> None:
    options = kconfig.parse(trimmed.fragment())
    # Each was missed once, or is what a machine cannot start without.
    for name in (
        "PVH",
        "PCI",
        "BASE_FULL",
        "MISC_FILESYSTEMS",
        "EROFS_FS",
        "OVERLAY_FS",
        "VIRTIO_MMIO",
        "VIRTIO_CONSOLE",
    ):
        assert options[f"CONFIG_{name}"] == "y"
    assert options["CONFIG_MODULES"] == "n"
