from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midge.bench.stats import percentile, ratio, summarize

FLOATS = st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=50)


def test_a_percentile_lies_between_the_two_nearest_samples() -> None:
    assert percentile([10, 20, 30, 40], 0.5) == 25
    assert percentile([10, 20, 30, 40, 50], 0.9) == pytest.approx(46)


def test_the_percentiles_of_one_sample_are_that_sample() -> None:
    assert [percentile([7], fraction) for fraction in (0, 0.5, 0.99, 1)] == [7, 7, 7, 7]


@pytest.mark.parametrize(("samples", "fraction"), [([], 0.5), ([1.0], -0.1), ([1.0], 1.1)])
def test_a_percentile_of_nothing_or_out_of_range_is_refused(samples: list[float], fraction: float) -> None:
    with pytest.raises(ValueError):
        percentile(samples, fraction)


def test_a_summary_does_not_depend_on_the_order_of_samples() -> None:
    assert summarize([3, 1, 2]) == summarize([1, 2, 3])


@given(FLOATS)
def test_a_summary_is_ordered(samples: list[float]) -> None:
    found = summarize(samples)
    ordered = [found.min, found.p50, found.p90, found.p99, found.max]
    assert ordered == sorted(ordered)
    assert found.n == len(samples)
    assert found.min * (1 - 1e-9) <= found.mean <= found.max * (1 + 1e-9)


def test_a_ratio_compares_medians() -> None:
    assert ratio([10, 20, 1000], [10]) == 2


def test_there_is_no_ratio_without_a_floor() -> None:
    assert ratio([1.0], []) is None
    assert ratio([], [1.0]) is None
    assert ratio([1.0], [0.0]) is None
