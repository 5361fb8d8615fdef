"""A bounded run of the layer fuzzer."""

from __future__ import annotations

import os

import pytest

from tests.fuzz.fuzz_layers import fuzz


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mutated_layers_neither_escape_nor_crash(seed: int) -> None:
    assert fuzz(seconds=20, seed=seed, most=400) > 0
