from __future__ import annotations

from midge.kernel import tsc


def test_noise_of_a_measurement_is_rounded_away() -> None:
    assert tsc.nearest_step(2_499_998.2) == tsc.nearest_step(2_500_001.4) == 2_500_000


def test_measuring_twice_gives_nearly_the_same() -> None:
    first, second = tsc.measure_khz(), tsc.measure_khz()
    if first is None or second is None:
        assert first is second
        return
    assert 500_000 < first < 10_000_000
    assert abs(first - second) <= first // 1000
