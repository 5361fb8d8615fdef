from __future__ import annotations

import pytest

from midge.errors import InvalidInput
from midge.kernel import cmdline


def test_mitigations_are_off_under_emulation_only() -> None:
    assert "mitigations=off" in cmdline.build("tcg").split()
    assert "mitigations=off" not in cmdline.build("kvm").split()


def test_addresses_are_randomized_with_kvm() -> None:
    assert "norandmaps" in cmdline.build("tcg").split()
    assert "norandmaps" not in cmdline.build("kvm").split()


def test_acpi_is_switched_off_when_the_vmm_has_none() -> None:
    assert "acpi=off" in cmdline.build("kvm", acpi=False).split()
    assert "acpi=off" not in cmdline.build("kvm", acpi=True).split()


def test_console_is_on_the_line_only_if_there_is_one() -> None:
    assert "console=ttyS0" in cmdline.build("kvm", console=True).split()
    assert "8250.nr_uarts=0" in cmdline.build("kvm", console=False).split()


def test_frequency_is_given_when_known() -> None:
    assert "tsc_early_khz=2500000" in cmdline.build("tcg", tsc_khz=2_500_000).split()
    assert "tsc_early_khz" not in cmdline.build("kvm")


def test_the_machines_own_parameters_come_last() -> None:
    line = cmdline.build("kvm", extra=["mitigations=auto", 'dyndbg="file a.c +p"'])
    assert line.endswith(' mitigations=auto dyndbg="file a.c +p"')


@pytest.mark.parametrize("word", ["", "a b", "a\nb", 'a="b', "--", "a\0"])
def test_what_is_no_parameter_is_refused(word: str) -> None:
    with pytest.raises(InvalidInput, match="parameter"):
        cmdline.build("kvm", extra=[word])


def test_a_line_too_long_for_the_kernel_is_refused() -> None:
    with pytest.raises(InvalidInput, match="limit is 1407"):
        cmdline.build("kvm", extra=["x" * 1400])


def test_every_parameter_is_given_once_and_has_a_reason() -> None:
    texts = [parameter.text for parameter in cmdline.PARAMETERS]
    assert len(texts) == len(set(texts))
    assert all(parameter.why for parameter in cmdline.PARAMETERS)
