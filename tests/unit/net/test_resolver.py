from __future__ import annotations

from pathlib import Path

import pytest

from midge.errors import InvalidInput
from midge.net import resolver


def test_only_what_a_machine_can_reach_is_taken() -> None:
    text = """# made by hand
nameserver 127.0.0.53
nameserver 10.0.0.53   # the router
nameserver fe80::1%eth0
nameserver 2001:db8::53
nameserver 10.0.0.53
nameserver 0.0.0.0
nameserver none
nameserver
search example.com
"""
    assert resolver.parse(text) == ("10.0.0.53",)
    assert resolver.parse("\n".join(f"nameserver 10.0.0.{n}" for n in range(1, 9))) == (
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
    )


def test_behind_a_local_cache_stands_whom_it_asks(tmp_path: Path) -> None:
    own, behind = tmp_path / "own", tmp_path / "behind"
    own.write_text("nameserver 127.0.0.53\n")
    assert resolver.host_nameservers([own, behind]) == ()
    behind.write_text("nameserver 192.0.2.1\n")
    assert resolver.host_nameservers([own, behind]) == ("192.0.2.1",)
    own.write_text("nameserver 192.0.2.2\n")
    assert resolver.host_nameservers([own, behind]) == ("192.0.2.2",)


def test_an_operator_may_name_them_or_nobody() -> None:
    assert resolver.named("host") is resolver.host_nameservers
    assert resolver.named("none")() == ()
    assert resolver.named("192.0.2.1, 192.0.2.2")() == ("192.0.2.1", "192.0.2.2")


@pytest.mark.parametrize("setting", ["", "dns.example", "1.1.1.1,,", "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4"])
def test_what_is_no_address_is_refused(setting: str) -> None:
    with pytest.raises(InvalidInput, match="nameservers"):
        resolver.named(setting)
