from __future__ import annotations

import pytest

from midge.errors import InvalidInput
from midge.net.config import NetConfig


def test_a_tag_is_six_hex_digits() -> None:
    with pytest.raises(InvalidInput, match="tag"):
        NetConfig(tag="mg-1")


def test_watermarks_must_be_in_order() -> None:
    with pytest.raises(InvalidInput, match="watermarks of tap"):
        NetConfig(tag="abcdef", free_low={"tap": 9}, free_high={"tap": 8})
    with pytest.raises(InvalidInput, match="watermarks of veth"):
        NetConfig(tag="abcdef", free_low={"veth": 1}, free_high={"tap": 8})
